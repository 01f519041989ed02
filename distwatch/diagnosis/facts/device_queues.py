"""What each rank has enqueued on its device, in order, and how far the device has come.

NCCL runs a collective later than the CPU calls it, in the order of the calls. So a rank stands at the
head of its queue, its first call that has not completed: all behind it only queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec

from distwatch.diagnosis.facts.device_work import (
    PEER,
    Work,
    device_queues,
    is_rooted,
)
from distwatch.state.events import GroupProgress
from distwatch.state.hardware_events import RAS
from distwatch.state.model import Process


class DeviceTimeline:
    """What the ranks of a job have enqueued on their devices.

    Attributes:
        queues: by global rank; only of ranks that hold a group whose calls run on a device.
    """

    def __init__(self, ranks: Mapping[int, Process], wall_offsets: Mapping[str, int]) -> None:
        """`wall_offsets`: by host, what its own clock lacks to the wall clock."""
        self._ranks = ranks
        self.queues = device_queues(ranks, wall_offsets)

    def head(self, global_rank: int) -> Work | None:
        """The call at which a rank's device stands."""
        return self._stands.get(global_rank)

    def stands_since_ns(self, global_rank: int, work: Work) -> int:
        """Since when a rank has been in a call and did nothing else."""
        return max(work.entered_ns, self.queues[global_rank].moved_ns)

    def done(self, rank: int, pg_name: str) -> int | None:
        """The number up to which a rank's device has completed a group's collectives, where it is known."""
        told = self._progress.get(rank, {}).get(pg_name)
        queue = self.queues.get(rank)
        opened = next(
            (w.seq for w in queue.pending if w.pg_name == pg_name and not w.is_p2p)
            if queue
            else iter(()),
            None,
        )
        return opened - 1 if opened is not None else told.completed if told else None

    @cached_property
    def _progress(self) -> dict[int, dict[str, GroupProgress]]:
        return {
            rank: {told.pg_name: told for told in pulse.groups}
            for rank in self.queues
            if (pulse := self._ranks[rank].outside.pulse) is not None
        }

    @cached_property
    def _stands(self) -> dict[int, Work]:
        """By rank, its first open call that a peer's device has completed, else its first open call.

        What a peer has completed, all have taken part in: whatever is open before it is not what holds up.
        """
        farthest: dict[tuple[str, tuple[int, ...]], int] = {}
        for queue in self.queues.values():
            for work in queue.pending:
                key = work.pg_name, work.members
                if not work.is_p2p and key not in farthest:
                    done = (self.done(rank, work.pg_name) for rank in work.members)
                    farthest[key] = max(
                        (number for number in done if number is not None), default=-1
                    )
        stands: dict[int, Work] = {}
        for rank, queue in self.queues.items():
            passed = (
                work
                for work in queue.pending
                if not work.is_p2p
                and not work.is_rooted
                and work.seq <= farthest[work.pg_name, work.members]
            )
            if (stand := next(passed, queue.head)) is not None:
                stands[rank] = stand
        return stands

    @cached_property
    def meetings(self) -> list[Meeting]:
        """The collectives at which devices stand."""
        at: dict[tuple[str, tuple[int, ...], int], list[int]] = {}
        for rank, work in self._stands.items():
            if not work.is_p2p:
                at.setdefault((work.pg_name, work.members, work.seq), []).append(rank)
        return [self._meeting(*key, here) for key, here in at.items()]

    def _meeting(self, pg_name: str, members: tuple[int, ...], seq: int, at: list[int]) -> Meeting:
        absent: list[int] = []
        unseen: list[int] = []
        queued: list[int] = []
        passed: list[int] = []
        here = set(at)
        for rank in members:
            if rank in here:
                continue
            told, done = self._progress.get(rank, {}).get(pg_name), self.done(rank, pg_name)
            if rank not in self._progress:
                unseen.append(rank)
            elif told is None or done is None or told.enqueued < seq:
                absent.append(rank)
            else:
                (passed if done >= seq else queued).append(rank)
        works = [self._stands[rank] for rank in at]
        some_started = any(work.started for work in works)
        # RAS does not say what has started.
        silent = {rank for rank in at if self._recorder(rank) == RAS}
        return Meeting(
            pg_name=pg_name,
            members=members,
            seq=seq,
            op=next((work.op for work in works if work.op), ""),
            at=tuple(at),
            absent=tuple(absent),
            unseen=tuple(unseen),
            queued=tuple(queued),
            passed=tuple(passed),
            unstarted=tuple(
                rank
                for rank, work in zip(at, works, strict=True)
                if not work.started and (some_started or work.timed) and rank not in silent
            ),
        )

    @cached_property
    def streams(self) -> Streams:
        """Which groups have a stream of their own."""
        return Streams(self)

    def _recorder(self, rank: int) -> str:
        pulse = self._ranks[rank].outside.pulse
        return pulse.recorder if pulse is not None else ""

    @cached_property
    def behind(self) -> frozenset[int]:
        """The ranks whose device is behind their peers' devices."""
        return self.lagging | {rank for meeting in self.meetings for rank in meeting.behind}

    @cached_property
    def lagging(self) -> frozenset[int]:
        """The ranks whose device stands at a send or recv that it has not started, or that the peer's has completed.

        The latter only in groups of two: there the sends and recvs of both sides have the same numbers.
        """
        passed = frozenset(
            rank
            for rank, work in self._stands.items()
            if work.peer >= 0
            and work.seq > 0
            and len(work.members) == 2
            and self._has_passed(work.peer, rank, work)
        )
        return passed | self.unstarted_peers

    @cached_property
    def unstarted_peers(self) -> frozenset[int]:
        """The ranks whose device stands at a send or recv that is known not to have started."""
        return frozenset(
            rank
            for rank, work in self._stands.items()
            if work.is_p2p and work.timed and not work.started
        )

    def _has_passed(self, rank: int, other: int, work: Work) -> bool:
        done = self._done_p2p(rank, work.pg_name)
        return done is not None and done >= work.seq and self._mirror(rank, other, work.pg_name)

    def title_of(self, rank: int, pg_name: str) -> str:
        """What a rank's group is for: groups of one description do the same at other places."""
        return self._ranks[rank].groups[pg_name].pg_desc

    def groups_for(self, rank: int, pg_desc: str) -> list[str]:
        """The names of a rank's groups of one description."""
        groups = self._ranks[rank].groups.values()
        return [group.pg_name for group in groups if group.pg_desc == pg_desc]

    def _done_p2p(self, rank: int, pg_name: str) -> int | None:
        queue = self.queues.get(rank)
        opened = (
            [w.seq for w in queue.pending if w.pg_name == pg_name and w.is_p2p] if queue else ()
        )
        called = self._p2p_calls(rank, pg_name)
        return min(opened) - 1 if opened else max(called, default=None)

    def _mirror(self, rank: int, other: int, pg_name: str) -> bool:
        """Whether what both have recorded under one number are the two sides of one call."""
        ours, theirs = self._p2p_calls(rank, pg_name), self._p2p_calls(other, pg_name)
        way = {"send": "recv", "recv": "send"}
        return all({way[op] for op in ours[n]} == theirs[n] for n in ours.keys() & theirs.keys())

    def _p2p_calls(self, rank: int, pg_name: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        dumped = self._ranks[rank].collectives if rank in self._ranks else None
        for entry in dumped.entries if dumped else ():
            if entry.is_p2p and entry.pg_name == pg_name and (way := PEER.search(entry.op)):
                found.setdefault(entry.seq, set()).add(way[1])
        return found


class Streams:
    """Groups whose calls do not wait for calls of others that were enqueued before: they have a stream of their own.

    Attributes:
        beside: pairs of descriptions: a call of the second group has completed behind an open one of the first.
    """

    def __init__(self, device: DeviceTimeline) -> None:
        behind: dict[tuple[str, int], dict[str, int]] = {}
        heads: dict[tuple[str, int], list[int]] = {}
        for rank, queue in device.queues.items():
            head = queue.head
            if head is None or head.is_p2p:
                continue
            key = device.title_of(rank, head.pg_name), head.seq
            heads.setdefault(key, []).append(rank)
            for work in queue.pending[1:]:
                if work.pg_name != head.pg_name and not work.is_p2p:
                    title = device.title_of(rank, work.pg_name)
                    behind.setdefault(key, {}).setdefault(title, work.seq)
        self.beside = frozenset(
            (key[0], title)
            for key, later in behind.items()
            for title, seq in later.items()
            if any(_has_done(device, rank, title, seq) for rank in heads[key])
        )

    def are_apart(self, first: str, then: str) -> bool:
        """Whether calls of the second group were seen not to wait for those of the first."""
        return (first, then) in self.beside


def _has_done(device: DeviceTimeline, rank: int, pg_desc: str, seq: int) -> bool:
    names = device.groups_for(rank, pg_desc)
    done = device.done(rank, names[0]) if len(names) == 1 else None
    return done is not None and done >= seq


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """One collective at the head of queues: where each member of its group is."""

    pg_name: str
    members: tuple[int, ...]
    seq: int
    op: str
    at: tuple[int, ...]
    """Their devices stand at it."""
    absent: tuple[int, ...] = ()
    """Their CPUs have not enqueued it."""
    unseen: tuple[int, ...] = ()
    """Nothing is known of their calls in the group."""
    queued: tuple[int, ...] = ()
    """They have enqueued it, and their devices stand at another call."""
    passed: tuple[int, ...] = ()
    """Their devices have completed it."""
    unstarted: tuple[int, ...] = ()
    """Of those at it: their kernels have not started, and others' have."""

    @property
    def behind(self) -> tuple[int, ...]:
        """The ranks at it whose device is behind their peers': all else that it needs is there."""
        needs_all = not is_rooted(self.op)
        waits = self.absent or self.unseen or self.queued
        if self.passed and (needs_all or not waits):
            return self.at
        return self.unstarted

    @property
    def awaited(self) -> tuple[int, ...]:
        """The ranks that those at it wait for."""
        return (*self.absent, *self.unseen, *self.queued, *self.unstarted)
