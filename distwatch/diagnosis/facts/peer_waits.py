"""Sends and recvs that have no matching call on the other side."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.device_queues import DeviceTimeline
from distwatch.diagnosis.facts.device_work import DeviceQueue, Work
from distwatch.diagnosis.facts.operations import P2P, operation_name
from distwatch.state import events as ev
from distwatch.state.model import Group, Process

_OTHER = {"send": "recv", "recv": "send"}


class PeerWait(msgspec.Struct, frozen=True, kw_only=True):
    """A rank whose newest call is a send or recv that no call of its peer matches."""

    global_rank: int
    peer_rank: int
    """-1: any member may match."""
    op: str
    """`send` or `recv`."""
    pg_name: str
    pg_desc: str
    members: tuple[int, ...]
    tag: int
    posted: int
    """The 1-based index of this call among those to or from that peer with that tag; 0: not known."""
    answered: int | None
    """How many matching calls the peer has posted; None where that was not observed."""
    entered_ns: int
    numel: int = -1
    dtype: str = ""
    site: ev.Site | None = None
    on_device: bool = False
    """It is at the head of its device's queue; `posted` is the recorder's number then."""
    enqueued: bool = False
    """The peer has enqueued the match."""
    meets: bool = False
    """The peer's device stands at the match, too."""
    may_meet: bool = False
    """The match is at least the peer's first open call with this rank: it waits for another one."""
    unstarted: bool = False
    """Its kernel has started, and the match's has not."""

    @property
    def awaited(self) -> tuple[int, ...]:
        """The ranks, any of which could end the wait."""
        if self.peer_rank >= 0:
            return (self.peer_rank,)
        return tuple(rank for rank in self.members if rank != self.global_rank)

    def __str__(self) -> str:
        whom = "any rank" if self.peer_rank < 0 else f"rank {self.peer_rank}"
        number = f" #{self.posted}" if self.posted else ""
        way = f"{self.op}{number} {'to' if self.op == 'send' else 'from'} {whom}"
        tag = f", tag {self.tag}" if self.tag else ""
        return f"{way}{tag}"


def peer_waits(ranks: dict[int, Process]) -> dict[int, PeerWait]:
    """By global rank, the wait of each rank whose newest call is an unmatched send or recv.

    Sends and recvs of a pair match in their order, by group and tag. A rank that has called anything
    else since does not wait for a call that it posted before.
    """
    found = {
        rank: wait
        for rank, process in ranks.items()
        if (wait := _oldest_open(ranks, rank, process))
    }
    return {rank: wait for rank, wait in found.items() if not _is_answered(wait)}


def device_peer_waits(ranks: dict[int, Process], device: DeviceTimeline) -> list[PeerWait]:
    """The sends and recvs at which devices stand, oldest first for each rank.

    What is open on both sides is paired from its oldest call on: rings do not reach back to the first.
    """
    waits: list[PeerWait] = []
    for rank, queue in device.queues.items():
        if rank in device.lagging:
            continue
        stand = device.head(rank)
        heads = [w for w in queue.heads if w.peer >= 0] if stand and stand.is_p2p else []
        found = [
            _device_wait(rank, ranks[rank], work, device.queues.get(work.peer)) for work in heads
        ]
        first = [wait for work, wait in zip(heads, found, strict=True) if work in queue.batch]
        # Where both sides have come to its first calls, those are what does not end; and a peer that
        # stands at one of its later calls waits for it, or both stand at others first.
        stuck = all(wait.meets for wait in first)
        waits += first if stuck else [w for w in found if w in first or not w.may_meet]
    return waits


def _device_wait(rank: int, process: Process, work: Work, other: DeviceQueue | None) -> PeerWait:
    match = other.counterpart(rank, work) if other else None
    meets = other is not None and match in other.batch
    return PeerWait(
        global_rank=rank,
        peer_rank=work.peer,
        op=work.direction,
        pg_name=work.pg_name,
        pg_desc=process.groups[work.pg_name].pg_desc,
        members=work.members,
        tag=0,
        posted=work.seq,
        answered=None,
        entered_ns=work.entered_ns,
        on_device=True,
        enqueued=match is not None,
        meets=meets,
        may_meet=other is not None and match in other.heads,
        unstarted=meets and match is not None and work.started > match.started,
    )


def _is_answered(wait: PeerWait) -> bool:
    return wait.answered is not None and wait.answered >= wait.posted


def _oldest_open(ranks: dict[int, Process], rank: int, process: Process) -> PeerWait | None:
    """Of the sends and recvs that were posted last, with nothing after them, the one to blame."""
    waits: list[PeerWait] = []
    for operation in reversed(process.outside.operations):
        if operation_name(operation.op) not in P2P:
            break
        wait = _wait(ranks, rank, process, operation)
        if wait is None:
            break
        if not _is_answered(wait):
            waits.append(wait)
    # A batch posts many at once: the first of them is the one that it waits for.
    return waits[-1] if waits else None


def _wait(
    ranks: dict[int, Process], rank: int, process: Process, operation: ev.Operation
) -> PeerWait | None:
    group = process.groups.get(operation.pg_name)
    if group is None or operation.p2p_seq < 0 or not -1 <= operation.peer < len(group.members):
        return None
    op = "send" if operation_name(operation.op) == "send" else "recv"
    peer = group.members[operation.peer] if operation.peer >= 0 else -1
    return PeerWait(
        global_rank=rank,
        peer_rank=peer,
        op=op,
        pg_name=group.pg_name,
        pg_desc=group.pg_desc,
        members=group.members,
        tag=operation.tag,
        posted=operation.p2p_seq,
        answered=_answered(ranks, rank, group, op, peer, operation.tag),
        entered_ns=operation.entered_ns,
        numel=operation.numel,
        dtype=operation.dtype,
        site=process.sites.get(operation.site),
    )


def _answered(
    ranks: dict[int, Process], rank: int, group: Group, op: str, peer: int, tag: int
) -> int | None:
    """How many calls the other side has posted that could match this one."""
    others = [peer] if peer >= 0 else [member for member in group.members if member != rank]
    counts = [_posted_for(ranks.get(other), rank, group, _OTHER[op], tag) for other in others]
    if peer >= 0:
        return counts[0]
    # From any rank: some rank has received, or will receive, what any of them sent.
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _posted_for(process: Process | None, rank: int, group: Group, op: str, tag: int) -> int | None:
    pulse = process.outside.pulse if process else None
    held = process.groups.get(group.pg_name) if process else None
    if process is None or pulse is None or held is None or held.members != group.members:
        return None
    if rank not in group.members:
        return None
    mine = group.members.index(rank)
    posted = [
        told.posted
        for told in pulse.peers
        if (told.pg_name, told.op, told.tag) == (group.pg_name, op, tag) and told.peer in (mine, -1)
    ]
    ring = [
        called.p2p_seq
        for called in process.outside.operations
        if (called.pg_name, called.tag) == (group.pg_name, tag)
        and called.peer in (mine, -1)
        and (operation_name(called.op) == "send") == (op == "send")
        and operation_name(called.op) in P2P
    ]
    if not posted and not ring and _may_be_forgotten(pulse):
        return None
    # The pulse is up to half a second old; the ring is as new as its reading.
    return max(max(posted, default=0), max(ring, default=0))


def _may_be_forgotten(pulse: ev.Pulse) -> bool:
    return len(pulse.peers) >= 16


def describe_tags(waits: Iterable[PeerWait]) -> str:
    """How the calls of one pair differ, where each waits for the other; '' where they do not."""
    first, *rest = waits
    if len(rest) != 1:
        return ""
    other = rest[0]
    if first.op == other.op:
        return ""
    if first.pg_name != other.pg_name:
        return f"one uses group {first.pg_name}, the other group {other.pg_name}"
    if first.tag != other.tag:
        return f"one uses tag {first.tag}, the other tag {other.tag}"
    return ""
