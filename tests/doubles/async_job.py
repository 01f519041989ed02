"""A double of a job on NCCL: CPUs enqueue calls, devices run them later, and one thing goes wrong.

A call runs once all that take part in it have it at the head of a stream. No time passes: CPUs and devices
move until nothing can, so what is left is what the real job would hang in.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.doubles.async_programs import Call, Programs

HOSTS = 2


@dataclass(frozen=True)
class Fault:
    """What goes wrong, at which rank, and after how many of its calls."""

    kind: str = "healthy"
    rank: int = -1
    at: int = 0
    lag: int = 0
    """After a CUDA error: how many completions before it are never recorded."""


@dataclass(eq=False)
class Rank:
    """One rank: what its CPU has enqueued, and what its device has done."""

    number: int
    program: list[Call]
    streams: dict[int, deque[Call]] = field(default_factory=dict)
    enqueued: list[Call] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    """Ids of completed calls."""
    started: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    p2p_counts: Counter[str] = field(default_factory=Counter)

    @property
    def open_calls(self) -> int:
        return sum(len(stream) for stream in self.streams.values())

    def heads(self) -> list[Call]:
        """What its streams are in: a call each, or a batch of sends and recvs."""
        found: list[Call] = []
        for stream in self.streams.values():
            for call in stream:
                if call is not stream[0] and (call.batch < 0 or call.batch != stream[0].batch):
                    break
                if id(call) not in self.done:
                    found.append(call)
        return found


class AsyncJob:
    """Runs programs with a fault until nothing moves any more."""

    def __init__(
        self,
        programs: Programs,
        fault: Fault,
        run_ahead: int,
        dice: random.Random,
        farther: Mapping[int, int] | None = None,
    ) -> None:
        """`farther`: ranks whose CPUs run ahead otherwise."""
        self.programs, self.fault, self.run_ahead, self.dice = programs, fault, run_ahead, dice
        self._farther = farther or {}
        self.ranks = {rank: Rank(rank, calls) for rank, calls in programs.calls.items()}
        self._times: dict[int, int] = {}
        self._now = 0

    def run(self) -> None:
        moved = True
        while moved:
            moved = False
            order = list(self.ranks.values())
            self.dice.shuffle(order)
            for rank in order:
                # A straggler's CPU is as slow as it may be, and never stops.
                burst = 1 if self.fault.kind == "straggler" and rank.number == self._late() else 4
                moved |= sum(self._enqueue(rank) for _ in range(burst)) > 0
            for rank in order:
                moved |= self._advance(rank)

    def created(self, call: Call) -> int:
        """When a call was enqueued, in calls of the job since its start."""
        return self._times[id(call)]

    def _late(self) -> int:
        return self._now // 50 % len(self.ranks)

    def _stands(self, rank: Rank, kinds: tuple[str, ...], count: int) -> bool:
        return (
            self.fault.rank == rank.number and self.fault.kind in kinds and count >= self.fault.at
        )

    def _enqueue(self, rank: Rank) -> bool:
        count = len(rank.enqueued)
        if count >= len(rank.program) or self._stands(
            rank, ("cpu stops", "GIL held", "dead"), count
        ):
            return False
        if rank.open_calls >= self._farther.get(rank.number, self.run_ahead):
            return False
        if rank.enqueued and rank.enqueued[-1].waits and rank.open_calls:
            return False
        call = rank.program[count]
        counts = rank.p2p_counts if call.is_p2p else rank.counts
        counts[call.group] += 1
        call.seq, call.p2p_seq = rank.counts[call.group], rank.p2p_counts[call.group]
        rank.enqueued.append(call)
        rank.streams.setdefault(call.stream, deque()).append(call)
        self._now += 1
        self._times[id(call)] = self._now
        return True

    def _advance(self, rank: Rank) -> bool:
        moved = False
        for call in rank.heads():
            place = len(rank.done)
            if self._stands(rank, ("CUDA error", "hung kernel", "dead"), place):
                return moved
            moved |= id(call) not in rank.started
            rank.started.add(id(call))
            partners = self._partners(rank, call)
            if partners is not None and not self._is_cut(rank, partners):
                for partner, theirs in partners.items():
                    self._finish(partner, theirs)
                self._finish(rank, call)
                moved = True
        return moved

    def _partners(self, rank: Rank, call: Call) -> dict[Rank, Call] | None:
        """The others' calls that it meets; None where one is not there or is another call."""
        if call.is_p2p:
            other = self.ranks[call.peer]
            for theirs in other.heads():
                matches = (
                    theirs.peer == rank.number
                    and theirs.op != call.op
                    and theirs.group == call.group
                )
                if matches and id(theirs) in other.started:
                    return {other: theirs}
            return None
        found: dict[Rank, Call] = {}
        for member in self.programs.groups[call.group]:
            other = self.ranks[member]
            theirs = next(
                (c for c in other.heads() if c.group == call.group and not c.is_p2p), None
            )
            if theirs is None or theirs.seq != call.seq or id(theirs) not in other.started:
                return None
            if theirs.op != call.op or (theirs.size != call.size and call.op != "all_to_all"):
                return None  # all_to_all may be uneven
            found[other] = theirs
        return found

    def _is_cut(self, rank: Rank, partners: dict[Rank, Call]) -> bool:
        if self.fault.kind != "link down" or len(self.ranks[self.fault.rank].done) < self.fault.at:
            return False
        hosts = {self.host(one.number) for one in (rank, *partners)}
        return len(hosts) > 1

    def host(self, rank: int) -> int:
        return rank * HOSTS // len(self.ranks)

    def _finish(self, rank: Rank, call: Call) -> None:
        rank.done.add(id(call))
        stream = rank.streams[call.stream]
        while stream and id(stream[0]) in rank.done:
            stream.popleft()

    def recorded_done(self, rank: int) -> set[int]:
        """Ids of the calls that a rank's recorder has as completed."""
        one = self.ranks[rank]
        if self.fault.kind == "CUDA error" and self.fault.rank == rank:
            finished = [id(call) for call in one.enqueued if id(call) in one.done]
            return set(finished[: max(len(finished) - self.fault.lag, 0)])
        return one.done

    @property
    def hangs(self) -> bool:
        """Whether anything is left that never completes, or a call that was never made."""
        return any(rank.open_calls for rank in self.ranks.values())
