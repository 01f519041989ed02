"""All evidence of one job, whatever files it came in, as one stream of events for each rank.

Whoever reads the events does not know that a log said them: what a watchdog says of a collective is
progress in a group, as a pulse has it, and an operation, as the recorder has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec

from distwatch.dumps.failed_inits import failed_init, is_of_init
from distwatch.dumps.group_facts import GroupFacts
from distwatch.dumps.imported import (
    HOST,
    WAITS_FROM_S,
    RankDump,
    Stream,
    header_of,
    key_of,
    streams_of,
    taken_at_ns,
    unseen,
)
from distwatch.dumps.log.clock import UNSAID
from distwatch.dumps.log.facts import (
    Desynced,
    DriverReported,
    Fact,
    GilHeld,
    LinkFailed,
    Raised,
    Stacked,
    StuckIn,
    Who,
    WorldSized,
    Wrote,
)
from distwatch.dumps.log.kernel import bus_label
from distwatch.dumps.log.roster import Roster
from distwatch.dumps.rank_ends import RankEnds, uncaught
from distwatch.dumps.ras import CommCounted, RasAnswered
from distwatch.state import events as ev
from distwatch.state.bounds import MOST_RANKS
from distwatch.state.frames import process_key
from distwatch.state.identity import Identity

_SECOND = 1_000_000_000


class Evidence(msgspec.Struct, kw_only=True):
    """What all files together hold."""

    dumps: dict[int, RankDump] = {}
    """By global rank, what torch's recorder left."""
    facts: list[Fact] = []
    refused: dict[str, str] = {}
    """Files that were not read, and why."""
    spans: list[tuple[int, int]] = []
    """For each log, the least and the greatest rank that wrote into it."""
    files: int = 0
    taken_ns: int = 0
    """When the newest file was written."""


def streams_of_evidence(evidence: Evidence) -> list[Stream]:
    """One stream for each rank of each start of the job, and one for what is seen from outside."""
    return _Assembly(evidence).streams()


class _Assembly:
    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        facts = _timed(evidence)
        self._roster = Roster(facts)
        self._facts = facts
        self._ranks = self._by_rank()
        self._has_stacks = any(isinstance(fact, Stacked) for fact in facts)
        self._newest = max((attempt for attempt, _ in self._ranks), default=0)
        self._world = self._world_size()
        now = max((fact.time_ns for fact in facts), default=0)
        dumped = taken_at_ns(evidence.dumps.values())
        self._now_ns = max(now + _SECOND, dumped) if now or dumped else evidence.taken_ns + _SECOND

    def streams(self) -> list[Stream]:
        dumps = self._dumps_with_stacks()
        found = streams_of(dumps, self._evidence.refused) if dumps else self._bare_streams()
        outside = found[0]
        by_key = {stream.header.stream: stream for stream in found}
        groups = self._groups()
        for rank in groups.ranks():
            self._ranks.setdefault((self._newest, rank), [])
        ends = RankEnds(self._facts, self._newest_facts(), self._roster, self._now_ns)
        for (attempt, rank), facts in sorted(self._ranks.items()):
            stream = by_key.get(self._key(attempt, rank))
            if stream is None:
                stream = self._new_stream(attempt, rank, groups.is_known or not self._has_stacks)
                found.append(stream)
            if attempt == self._newest:
                self._tell_groups(stream, outside, rank, groups)
                stream.events += ends.exceptions_of(rank)
                outside.events += ends.exit_of(rank, stream.header.stream)
                self._tell_gil(stream, outside, facts)
            else:
                stream.events += ends.past_exceptions(facts)
            self._tell_looks(stream, outside, rank, facts)
        if not self._ranks and not self._evidence.dumps:
            found += self._rankless()
        if self._roster.numbered_by_pid:
            why = "nothing says which process is which rank: they are numbered in the order of their pids"
            outside.events.append((self._now_ns, unseen("ranks of the stacks", why)))
        self._tell_links(outside)
        self._tell_devices(outside)
        outside.events.append((self._now_ns, ev.Ticked(host=HOST)))
        return found

    def _rankless(self) -> list[Stream]:
        """A process that failed before it knew its rank, where nothing else is known of the job."""
        raised = [fact for fact in self._facts if isinstance(fact, Raised)][:1]
        streams = []
        for fact in raised:
            stream = Stream(header=header_of(process_key(HOST, 0, 0), 0))
            started = ev.ProcessStarted(
                host=HOST, pid=0, start_ticks=0, ppid=0, role="other", identity=Identity()
            )
            stream.events += [(fact.time_ns - _SECOND, started), (fact.time_ns, uncaught(fact))]
            streams.append(stream)
        return streams

    def _groups(self) -> GroupFacts:
        groups = GroupFacts(self._newest_facts(), self._world, frozenset(self._evidence.dumps))
        comms = [fact for fact in self._facts if isinstance(fact, CommCounted)]
        answers = sum(isinstance(fact, RasAnswered) for fact in self._facts)
        groups.read_timeouts(self._newest_facts())
        groups.read_comms(comms, answers, self._roster)
        return groups

    def _by_rank(self) -> dict[tuple[int, int], list[Fact]]:
        newest = max((fact.who.attempt for fact in self._facts), default=0)
        found: dict[tuple[int, int], list[Fact]] = {}
        for fact in self._facts:
            rank = self._roster.rank_of(fact.who)
            if rank is None:
                continue
            attempt = self._roster.attempt_of(fact.who)
            found.setdefault((max(attempt if attempt >= 0 else newest, 0), rank), []).append(fact)
        return found

    def _newest_facts(self) -> dict[int, list[Fact]]:
        return {r: facts for (attempt, r), facts in self._ranks.items() if attempt == self._newest}

    def _world_size(self) -> int:
        sizes = [fact.size for fact in self._facts if isinstance(fact, WorldSized)]
        highest = max([*(rank for _, rank in self._ranks), *self._evidence.dumps], default=-1)
        default_sizes = [
            size
            for fact in self._facts
            if isinstance(fact, StuckIn) and (size := gathered_size(fact))
        ]
        return min(max([highest + 1, *sizes, *default_sizes]), MOST_RANKS)

    @cached_property
    def _covers_all(self) -> bool:
        """Whether each rank is seen, named by others, or would have written into a file that is here."""
        known = {rank for attempt, rank in self._ranks if attempt == self._newest}
        for fact in self._facts:
            if isinstance(fact, Desynced):
                known |= {*fact.absent, *fact.joined}
        for first, last in self._evidence.spans:
            known.update(range(first, last + 1))
        return all(rank in known for rank in range(self._world))

    def _dumps_with_stacks(self) -> list[RankDump]:
        found: list[RankDump] = []
        for rank, dump in self._evidence.dumps.items():
            stacks = [f for f in self._newest_facts().get(rank, ()) if isinstance(f, Stacked)]
            threads = stacks[-1].threads if stacks else dump.threads
            found.append(msgspec.structs.replace(dump, threads=threads))
        return found

    def _bare_streams(self) -> list[Stream]:
        outside = Stream(header=header_of("observer:imported", 0))
        began = min((fact.time_ns for fact in self._facts), default=self._now_ns)
        for name, why in sorted(self._evidence.refused.items()):
            outside.events.append((began, unseen(name, why)))
        return [outside]

    def _key(self, attempt: int, rank: int) -> str:
        if rank in self._evidence.dumps and attempt == self._newest:
            return key_of(self._evidence.dumps[rank])
        pids = self._roster.labels_of(rank, "pid")
        pid = next((int(text) for text in pids if text.isdigit()), 0)
        return process_key(HOST, pid, rank + MOST_RANKS * (self._newest - attempt))

    def _new_stream(self, attempt: int, rank: int, speaks: bool) -> Stream:
        """`speaks`: it tells of itself; else there are only its stacks."""
        key = self._key(attempt, rank)
        pid = _pid_of(key)
        stream = Stream(header=header_of(key, pid))
        identity = Identity(
            global_rank=rank,
            world_size=self._world,
            local_world_size=self._world if self._covers_all else None,
            restart=attempt,
        )
        times = (fact.time_ns for fact in self._ranks[attempt, rank])
        first_ns = min(times, default=self._now_ns) - _SECOND
        if not speaks:
            self._evidence_of_start(stream, identity, first_ns, pid)
        else:
            started = ev.ProcessStarted(
                host=HOST,
                pid=pid,
                start_ticks=rank,
                ppid=0,
                role="rank",
                identity=identity,
                deadlines={"collective": WAITS_FROM_S},
            )
            stream.events.append((first_ns, started))
        confirmed = ev.IdentityConfirmed(global_rank=rank, world_size=self._world)
        inits = [f for f in self._ranks[attempt, rank] if isinstance(f, Raised) and is_of_init(f)]
        stream.events += (
            failed_init(inits[0], rank, self._world) if inits else [(first_ns, confirmed)]
        )
        return stream

    def _evidence_of_start(
        self, stream: Stream, identity: Identity, first_ns: int, pid: int
    ) -> None:
        sighted = ev.ProcessSighted(
            process=stream.header.stream,
            host=HOST,
            pid=pid,
            start_ticks=identity.global_rank or 0,
            ppid=0,
            role="rank",
            identity=identity,
        )
        stream.events.append((first_ns, sighted))

    def _tell_groups(self, stream: Stream, outside: Stream, rank: int, groups: GroupFacts) -> None:
        if rank in self._evidence.dumps or not stream.events:
            return
        began_ns = stream.events[0][0]
        facts = self._ranks[self._newest, rank]
        if not groups.progress(rank) and any(isinstance(fact, GilHeld) for fact in facts):
            return  # its own pulse follows, which would say that it has made no collective
        stream.events += [(began_ns, event) for event in groups.created(rank)]
        if entries := groups.entries(rank):
            dumped = ev.CollectivesDumped.of("imported", entries)
            stream.events.append((self._now_ns, dumped))
        if progress := groups.progress(rank):
            pulse = ev.Pulse(beat=1, beat_ns=self._now_ns, groups=progress, recorder="imported log")
            read = ev.PulseRead(process=stream.header.stream, pulse=pulse)
            outside.events.append((self._now_ns, read))

    def _tell_gil(self, stream: Stream, outside: Stream, facts: Iterable[Fact]) -> None:
        held = [fact for fact in facts if isinstance(fact, GilHeld)]
        stuck_s = max((fact.stuck_s for fact in held), default=0.0)
        # Without the second word a device's call may be what keeps the watchdog from running.
        if stuck_s and any(not fact.stuck_s for fact in held):
            beat_ns = held[0].time_ns - int(stuck_s * _SECOND)
            pulse = ev.Pulse(beat=1, beat_ns=beat_ns, recorder="torch's heartbeat monitor")
            read = ev.PulseRead(process=stream.header.stream, pulse=pulse)
            outside.events.append((held[0].time_ns, read))

    def _tell_looks(
        self, stream: Stream, outside: Stream, rank: int, facts: Iterable[Fact]
    ) -> None:
        key = stream.header.stream
        stacks = [fact for fact in facts if isinstance(fact, Stacked)]
        if stacks and rank not in self._evidence.dumps:
            newest = stacks[-1]
            outside.events.append(
                (
                    newest.time_ns,
                    ev.StackTaken(
                        process=key,
                        threads=newest.threads,
                        source="imported",
                        unchanged_since_ns=_unchanged_since(stacks),
                    ),
                )
            )
        words = [fact for fact in facts if isinstance(fact, Wrote)]
        if words:
            last = max(words, key=lambda fact: fact.time_ns)
            outside.events.append((last.time_ns, ev.OutputSeen(process=key, text=last.text)))

    def _tell_links(self, outside: Stream) -> None:
        for fact in self._facts:
            if isinstance(fact, LinkFailed):
                rank = self._roster.rank_of(fact.who)
                key = self._key(self._newest, rank) if rank is not None else None
                seen = ev.PortErrorSeen(
                    host=HOST, port=fact.device, text=fact.text, process=key, decides=fact.decides
                )
                outside.events.append((fact.time_ns, seen))

    def _tell_devices(self, outside: Stream) -> None:
        devices: dict[str, ev.Device] = {}
        reports = [fact for fact in self._facts if isinstance(fact, DriverReported)]
        for fact in reports:
            pids = (f"pid:{fact.pid}",) if fact.pid else ()
            rank = self._roster.rank_of(Who(labels=(*pids, bus_label(fact.bus))))
            pid = _pid_of(self._key(self._newest, rank)) if rank is not None else 0
            known = devices.get(fact.bus, ev.Device(index=len(devices), name=f"GPU {fact.bus}"))
            uses = known.processes or ((ev.DeviceUse(pid=pid),) if pid else ())
            devices[fact.bus] = msgspec.structs.replace(
                known, xid=(*known.xid, fact.xid), processes=uses
            )
        if reports:
            sampled = ev.DevicesSampled(host=HOST, devices=tuple(devices.values()))
            outside.events.append((reports[-1].time_ns, sampled))


def _pid_of(key: str) -> int:
    return int(key.rpartition("-")[2].partition(".")[0])


def gathered_size(fact: StuckIn) -> int:
    """The size of the default group, where an operation's two sizes say it; else 0."""
    if fact.group is not None and not fact.group.is_default:
        return 0
    small, large = fact.numel_in or 0, fact.numel_out or 0
    if "scatter" in fact.op:
        small, large = large, small
    elif "gather" not in fact.op:
        return 0
    return large // small if small and large % small == 0 else 0


def _unchanged_since(stacks: list[Stacked]) -> int | None:
    """Since when several looks saw the same; None: there was only one."""
    if len(stacks) < 2:
        return None
    newest = stacks[-1]
    since = newest.time_ns
    for earlier in reversed(stacks[:-1]):
        if earlier.threads != newest.threads:
            break
        since = earlier.time_ns
    return since


def _timed(evidence: Evidence) -> list[Fact]:
    """The facts in order; those that say no time come where the others are."""
    dumped_ns = taken_at_ns(evidence.dumps.values())
    stacked = [fact.time_ns for fact in evidence.facts if isinstance(fact, Stacked)]
    # Stacks have the time of their file, which may be that of a copy: the newest is as new as the dumps.
    late_ns = max(stacked, default=0) - dumped_ns if dumped_ns and stacked else 0
    said = [fact.time_ns for fact in evidence.facts if fact.time_ns >= UNSAID]
    base = dumped_ns or min(said, default=evidence.taken_ns or UNSAID)
    timed = []
    for fact in evidence.facts:
        shift = 0 if fact.time_ns >= UNSAID else base
        if late_ns and isinstance(fact, Stacked):
            shift = -late_ns
        timed.append(msgspec.structs.replace(fact, time_ns=fact.time_ns + shift))
    return sorted(timed, key=lambda fact: fact.time_ns)
