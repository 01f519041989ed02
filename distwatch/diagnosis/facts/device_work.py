"""What a rank has enqueued on its device and the device has not completed, from its dump and its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from distwatch.state.events import GroupProgress
from distwatch.state.model import Group, Process
from distwatch.state.recorder_entries import Collective

_ON_CPU = frozenset(("", "gloo", "mpi", "fake", "undefined", "cpu", "cuda", "xpu", "hpu", "meta"))
"""Backends whose calls block their thread, and the device words of a backend per device."""
_WORD = re.compile(r"[a-z_]+")
PEER = re.compile(r"(send|recv)\s+\d+\s*(?:->|<-)\s*(\d+)")


_ROOTED = frozenset(("broadcast", "reduce", "gather", "scatter", "_broadcast_oop", "_reduce_oop"))


def is_rooted(op: str) -> bool:
    """Whether a member can be done with this collective before another has come to it."""
    return op.rpartition(":")[2] in _ROOTED


class Work(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call that a rank has enqueued and its device has not completed."""

    pg_name: str
    members: tuple[int, ...]
    seq: int
    """Its number in the group; sends and recvs are numbered apart from collectives."""
    op: str = ""
    peer: int = -1
    """The other side's global rank, for a send or recv."""
    is_p2p: bool = False
    started: bool = False
    """Whether its kernel is known to have started: only where torch times its events."""
    timed: bool = False
    """It would be known if its kernel had started."""
    entered_ns: int = 0
    timeout_s: float | None = None

    @property
    def is_rooted(self) -> bool:
        return is_rooted(self.op)

    @property
    def direction(self) -> str:
        """`send` or `recv`; empty for a collective."""
        return self.op.rpartition(":")[2].partition(" ")[0] if self.peer >= 0 else ""


class DeviceQueue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rank's calls that have not completed, oldest first."""

    global_rank: int
    pending: tuple[Work, ...] = ()
    moved_ns: int = 0
    """When its numbers in any group last changed: no call has held it up since before that."""

    @property
    def heads(self) -> tuple[Work, ...]:
        """What its device is in: one collective, or sends and recvs with several peers.

        Those with one peer run one after the other, except for a batch, which has one number.
        """
        heads: dict[tuple[str, int], list[Work]] = {}
        for work in self.pending:
            if not work.is_p2p:
                break
            pair = heads.setdefault((work.pg_name, work.peer), [])
            if not pair or pair[0].seq == work.seq:
                pair.append(work)
        return tuple(work for pair in heads.values() for work in pair) or self.pending[:1]

    @property
    def batch(self) -> tuple[Work, ...]:
        """Its first call that has not completed, and those that run together with it."""
        first = self.head
        if first is None or not first.is_p2p:
            return self.pending[:1]
        return tuple(w for w in self.heads if (w.pg_name, w.seq) == (first.pg_name, first.seq))

    @property
    def head(self) -> Work | None:
        """Its first call that has not completed."""
        return self.pending[0] if self.pending else None

    def counterpart(self, rank: int, work: Work) -> Work | None:
        """The oldest open call of this rank that matches the other's send or recv."""
        for mine in self.pending:
            if (mine.pg_name, mine.peer) == (work.pg_name, rank) and {
                mine.direction,
                work.direction,
            } == {"send", "recv"}:
                return mine
        return None


@lru_cache(maxsize=1024)
def runs_on_device(backend: str) -> bool:
    """Whether a backend enqueues calls on a device: `nccl`, `cpu:gloo,cuda:nccl`."""
    return any(word not in _ON_CPU for word in _WORD.findall(backend.lower()))


def device_queues(
    ranks: Mapping[int, Process], wall_offsets: Mapping[str, int]
) -> dict[int, DeviceQueue]:
    found: dict[int, DeviceQueue] = {}
    times_p2p = _times_p2p(ranks.values())
    for rank, process in ranks.items():
        groups = {name: group for name, group in process.groups.items() if _is_used(group)}
        if groups:
            offset = wall_offsets.get(process.host, 0)
            pulse = process.outside.pulse
            found[rank] = DeviceQueue(
                global_rank=rank,
                pending=tuple(_pending(process, groups, offset, times_p2p)),
                moved_ns=max(
                    (p.changed_ns for p in (pulse.groups if pulse else ()) if p.pg_name in groups),
                    default=0,
                ),
            )
    return found


def _is_used(group: Group) -> bool:
    return group.destroyed_ns is None and runs_on_device(group.backend)


def _times_p2p(processes: Iterable[Process]) -> bool:
    """Whether the recorders know when sends and recvs start: those of a batch stay `scheduled` (pytorch#137969)."""
    some = False
    for process in processes:
        waiting: set[str] = set()
        dumped = process.collectives
        if dumped is None or not any(kind.is_p2p for kind in dumped.kinds):
            continue
        for entry in dumped.entries:
            if not entry.is_p2p:
                continue
            if entry.state == "scheduled":
                if entry.over:
                    return False
                waiting.add(entry.pg_name)
            elif entry.pg_name in waiting:
                return False  # a call before it has certainly started
            else:
                some |= entry.state == "started"
    return some


def _pending(
    process: Process, groups: dict[str, Group], wall_offset: int, times_p2p: bool
) -> list[Work]:
    progress = {
        p.pg_name: p for p in (process.outside.pulse.groups if process.outside.pulse else ())
    }
    works: list[Work] = []
    for entry in process.collectives.entries if process.collectives else ():
        group = groups.get(entry.pg_name)
        if group is not None and not entry.over and not _has_completed(entry, progress):
            timed = entry.timed and (times_p2p or not entry.is_p2p)
            works.append(_work(entry, group, progress.get(entry.pg_name), wall_offset, timed))
    known = {work.pg_name for work in works if not work.is_p2p}
    # What was called since the entries were read, or without them: only its number is known.
    for name, told in progress.items():
        completed = max(told.completed, process.retired.get(name, -1), 0)
        if name in groups and name not in known and told.in_flight and told.enqueued > completed:
            works.append(_counted(told, groups[name], completed + 1))
    return sorted(works, key=lambda work: work.entered_ns)


def _has_completed(entry: Collective, progress: Mapping[str, GroupProgress]) -> bool:
    told = progress.get(entry.pg_name)
    return not entry.is_p2p and told is not None and entry.seq <= told.completed


def _work(
    entry: Collective, group: Group, told: GroupProgress | None, wall_offset: int, timed: bool
) -> Work:
    counted = told is not None and not entry.is_p2p and told.started >= entry.seq
    peer = PEER.search(entry.op) if entry.is_p2p else None
    place = int(peer[2]) if peer else -1
    return Work(
        pg_name=entry.pg_name,
        members=group.members,
        seq=entry.seq,
        op=entry.op,
        peer=group.members[place] if 0 <= place < len(group.members) else -1,
        is_p2p=entry.is_p2p,
        started=counted or entry.state == "started",
        timed=timed,
        entered_ns=entry.created_wall_ns - wall_offset,
        timeout_s=entry.timeout_ms / 1000 if entry.timeout_ms else group.timeout_s,
    )


def _counted(told: GroupProgress, group: Group, seq: int) -> Work:
    return Work(
        pg_name=told.pg_name,
        members=group.members,
        seq=seq,
        started=told.started >= seq,
        entered_ns=told.changed_ns,
        timeout_s=group.timeout_s,
    )
