"""How far ranks are in their process groups, by what watchdogs, desync reports and RAS say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from distwatch.diagnosis.facts.communication import is_communication_error
from distwatch.diagnosis.facts.operations import P2P, operation_name
from distwatch.dumps.imported import WAITS_FROM_S
from distwatch.dumps.log.facts import (
    DEFAULT,
    NOBODY,
    Desynced,
    Fact,
    Group,
    Progressed,
    Raised,
    StuckIn,
)
from distwatch.dumps.log.roster import Roster
from distwatch.dumps.ras import CommCounted
from distwatch.state import events as ev
from distwatch.state.recorder_entries import Collective

_TIMED_OUT = re.compile(r"(?i)timed out waiting|timed out after|wait timeout|socket timeout")
_FIRST_CALL = "is setting up NCCL communicator"
"""A group's first collective: its members wait for the id that one of them makes when it comes."""
_MILLISECONDS = re.compile(r"(\d{1,10}) ?ms\b")
_C10D_CALL = re.compile(r"/torch/distributed/distributed_c10d\.py\", line \d+, in (\w+)")


class _Place(msgspec.Struct, kw_only=True):
    """One rank in one group."""

    enqueued: int = -1
    completed: int = -1
    changed_ns: int = 0
    work: StuckIn | None = None


class GroupFacts:
    """What is known of the groups of the newest start of a job."""

    def __init__(
        self, facts: Mapping[int, Iterable[Fact]], world: int, recorded: frozenset[int]
    ) -> None:
        """`recorded`: ranks whose recorder's dump says more than a log can."""
        self._world = world
        self._places: dict[Group, dict[int, _Place]] = {}
        self._group_ranks: dict[Group, dict[int, int]] = {}
        self._created: dict[Group, ev.GroupCreated] = {}
        self._peers: list[tuple[int, StuckIn]] = []
        self._partial = False
        for rank, of_rank in facts.items():
            if rank not in recorded:
                self._read(rank, list(of_rank))
        self._read_peers()
        for of_rank in facts.values():
            for fact in of_rank:
                if isinstance(fact, Desynced):
                    self._read_desync(fact)

    @property
    def is_known(self) -> bool:
        """Whether anything says in which collective a rank is."""
        return bool(self._places)

    def ranks(self) -> set[int]:
        """All ranks that are known to be in some collective, or to be late for one."""
        return {rank for places in self._places.values() for rank in places}

    def created(self, rank: int) -> Iterable[ev.GroupCreated]:
        """The groups that a rank is a member of."""
        for group in self._places:
            created = self._created.get(group) or self._created.setdefault(group, self._of(group))
            if rank in created.members:
                yield created

    def entries(self, rank: int) -> tuple[Collective, ...]:
        """The operations that timed out on a rank, as its recorder would have them."""
        works = [(g, p[rank].work) for g, p in self._places.items() if rank in p]
        return tuple(_entry(group, work) for group, work in works if work is not None)

    def progress(self, rank: int) -> tuple[ev.GroupProgress, ...]:
        """The rank's progress in its groups."""
        return tuple(
            ev.GroupProgress(
                pg_name=group.name,
                enqueued=places[rank].enqueued,
                completed=places[rank].completed,
                changed_ns=places[rank].changed_ns,
            )
            for group, places in self._places.items()
            if rank in places
        )

    def read_comms(self, comms: Iterable[CommCounted], answers: int, roster: Roster) -> None:
        """What RAS counts, for communicators in which some ranks are behind and none has moved since.

        Args:
            answers: how often RAS was asked.
        """
        by_comm: dict[str, list[CommCounted]] = {}
        for comm in comms:
            by_comm.setdefault(comm.comm, []).append(comm)
        largest = max((one.size for seen in by_comm.values() for one in seen), default=0)
        for name, seen in by_comm.items():
            first, last = seen[0], seen[-1]
            moved = (first.counts, first.usual) != (last.counts, last.usual)
            if moved or len(seen) < answers:
                continue
            # Whoever asks RAS asks because nothing moves: as for a dump, that counts as a hang.
            since_ns = first.time_ns - int((WAITS_FROM_S + 1) * 1e9)
            once = answers < 2
            self._count(name, last, since_ns, roster, last.size == largest, once)

    def _count(
        self,
        name: str,
        comm: CommCounted,
        since_ns: int,
        roster: Roster,
        is_whole: bool,
        once: bool,
    ) -> None:
        counts = dict.fromkeys(range(comm.size), comm.usual) if comm.usual >= 0 else {}
        counts |= comm.counts
        counts = {rank: count for rank, count in counts.items() if rank not in comm.silent}
        least = min(counts.values(), default=0)
        if max(counts.values(), default=0) == least:
            return
        group = Group(name=name, desc="NCCL communicator")
        for rank, count in counts.items():
            known = rank if is_whole else roster.rank_of(comm.writers.get(rank, NOBODY))
            # One look does not show whether a rank that is behind stays there.
            if known is None or (once and count == least):
                continue
            place = self._place(known, group, rank)
            place.enqueued, place.completed, place.changed_ns = count, least, since_ns
            if count > least and comm.op:
                place.work = StuckIn(
                    who=NOBODY, time_ns=since_ns, seq=least + 1, op=comm.op.lower()
                )

    def _read(self, rank: int, facts: list[Fact]) -> None:
        pending: list[StuckIn] = []
        for fact in facts:
            if isinstance(fact, StuckIn):
                self._partial |= fact.repeated
                if operation_name(fact.op) in P2P:
                    self._peers.append((rank, fact))
                    continue
                if fact.group is None:
                    pending.append(fact)
                    continue
                pending = [one for one in pending if one.seq != fact.seq]
                self._time_out(rank, fact.group, fact)
            elif isinstance(fact, Progressed):
                # The watchdog's first line does not name the group, its next one does.
                for one in pending:
                    self._time_out(rank, fact.group, one)
                pending = []
                self._move_on(rank, fact)
        for one in pending:
            self._time_out(rank, DEFAULT, one)

    def _read_peers(self) -> None:
        """Sends and recvs are numbered by pairs: each rank that waits in one is in the same place of its group."""
        counted = {group.name for group in self._places}
        for rank, fact in self._peers:
            group = fact.group or DEFAULT
            if group.name not in counted:
                self._time_out(rank, group, msgspec.structs.replace(fact, seq=1))

    def read_timeouts(self, facts: Mapping[int, Iterable[Fact]]) -> None:
        """Ranks whose own error says that a collective timed out, where nothing says its number.

        What all of them call number 1 then is the one in which they were.
        """
        if self._places:
            return
        for rank, of_rank in facts.items():
            for fact in of_rank:
                if isinstance(fact, Raised) and (op := _timed_out_in(fact)):
                    lasted = _MILLISECONDS.search(fact.message)
                    ran_ms = int(lasted[1]) if lasted else int((WAITS_FROM_S + 1) * 1000)
                    stuck = StuckIn(who=fact.who, time_ns=fact.time_ns, seq=1, op=op, ran_ms=ran_ms)
                    self._time_out(rank, DEFAULT, stuck)

    def _place(self, rank: int, group: Group, group_rank: int | None) -> _Place:
        known = next((g for g in self._places if g.name == group.name), group)
        if group_rank is not None:
            self._group_ranks.setdefault(known, {})[group_rank] = rank
        return self._places.setdefault(known, {}).setdefault(rank, _Place())

    def _time_out(self, rank: int, group: Group, fact: StuckIn) -> None:
        place = self._place(rank, group, fact.group_rank)
        if place.work is not None and place.work.seq <= fact.seq:
            return
        place.work = fact
        place.enqueued = max(place.enqueued, fact.seq)
        # The watchdog looks at works in their order: those before it have ended.
        place.completed = fact.seq - 1
        place.changed_ns = fact.time_ns - fact.ran_ms * 1_000_000

    def _move_on(self, rank: int, fact: Progressed) -> None:
        place = self._place(rank, fact.group, fact.group_rank)
        place.enqueued = max(place.enqueued, fact.enqueued)
        if place.work is None:
            place.completed = max(place.completed, fact.completed)
            place.changed_ns = fact.time_ns

    def _read_desync(self, fact: Desynced) -> None:
        """Its numbers count otherwise than the watchdog's: of these only who is missing is taken."""
        places = self._places.get(DEFAULT, {})
        waits = [place.work.seq for place in places.values() if place.work is not None]
        seq = min(waits, default=fact.seq)
        if seq < 1:
            return
        for rank in fact.absent:
            place = self._place(rank, DEFAULT, None)
            if place.work is None:
                place.enqueued, place.completed = seq - 1, seq - 1
                place.changed_ns = fact.time_ns
        for rank in fact.joined:
            place = self._place(rank, DEFAULT, None)
            if place.work is None and rank not in fact.absent:
                place.enqueued, place.completed = max(place.enqueued, seq), seq - 1
                place.changed_ns = fact.time_ns

    def _of(self, group: Group) -> ev.GroupCreated:
        works = [place.work for place in self._places[group].values() if place.work is not None]
        timeouts = [work.timeout_ms for work in works if work.timeout_ms]
        return ev.GroupCreated(
            pg_name=group.name,
            pg_desc=group.desc,
            backend="nccl",
            members=self._members(group),
            timeout_s=max(timeouts) / 1000 if timeouts else None,
        )

    def _members(self, group: Group) -> tuple[int, ...]:
        """All ranks for the default group; of another one those that are known, and what lies between."""
        known = self._group_ranks.get(group, {})
        if self._partial:
            return tuple(sorted(self._places[group]))
        if group.is_default:
            return tuple(range(self._world))
        speakers = set(self._places[group])
        if len(known) < 2:
            return tuple(sorted(speakers))
        (first, base), *rest = sorted(known.items())
        last, end = rest[-1]
        step, remainder = divmod(end - base, last - first)
        is_even = not remainder and all(r == base + step * (n - first) for n, r in rest)
        between = {base + step * n for n in range(last - first + 1)} if is_even else set[int]()
        return tuple(sorted(speakers | between))


def _timed_out_in(raised: Raised) -> str:
    """The collective in which the rank waited until its timeout; '' where it did not."""
    if not _TIMED_OUT.search(raised.message) or not is_communication_error(
        raised.type_name, raised.message
    ):
        return ""
    calls = [found[1] for line in raised.traceback if (found := _C10D_CALL.search(line))]
    named = [call for call in calls if call not in ("wrapper", "init_process_group", "new_group")]
    if "init_process_group" in calls:
        return ""
    return named[-1] if named else "collective" if _FIRST_CALL in raised.message else ""


def _entry(group: Group, work: StuckIn) -> Collective:
    return Collective(
        pg_name=group.name,
        pg_desc=group.desc,
        seq=work.seq,
        op=f"nccl:{operation_name(work.op)}",
        state="started",
        input_sizes=((work.numel_in,),) if work.numel_in is not None else (),
        output_sizes=((work.numel_out,),) if work.numel_out is not None else (),
        created_wall_ns=max(work.time_ns - work.ran_ms * 1_000_000, 0),
        timeout_ms=work.timeout_ms,
    )
