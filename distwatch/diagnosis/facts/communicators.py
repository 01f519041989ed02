"""What NCCL's own count of launched operations says of ranks that say nothing of it themselves.

Ranks with an agent report their groups and numbers. Of the others (a job without distwatch, hosts without an
observer) an answer of NCCL's RAS service tells which communicators they are in and how far they have come.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from distwatch.diagnosis.facts.device_work import runs_on_device
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.state import events as ev
from distwatch.state.bounds import MOST_RANKS
from distwatch.state.frames import process_key
from distwatch.state.hardware_events import RAS
from distwatch.state.identity import Identity
from distwatch.state.model import Group, Process, RunState, Sighting
from distwatch.state.recorder_entries import Collective

DEAD_WORDS = f"{RAS} considers it dead: it no longer answers"
APART_S = 4.5
"""Counts that are the same in two answers so far apart do not move."""
_OUTDATED_S = 180.0
"""Twice the longest pause between two answers: nobody has asked since, for the job moved."""
_MOST_HOSTS = 8
"""Where a pid is used on more hosts than this, it tells none from another."""
_MOST_PAIRS = 1024
_LATE_NS = 1_000_000_000


def with_communicators(
    ranks: dict[int, Process], world: int | None, state: RunState
) -> dict[int, Process]:
    """The ranks, completed by the newest answer; with the ranks that only the answer tells of."""
    answer = _newest_answer(state)
    if answer is None or world is None or not ranks:
        return ranks
    return _Completion(ranks, world, state, *answer).ranks()


def _newest_answer(state: RunState) -> tuple[ev.CommunicatorsSeen, int] | None:
    """The newest answer, and when it came by the clock of the host that asked; None: there is none."""
    found = [
        (state.wall_ns(host.host, (at_ns := host.stamps["communicators"][0])), host, at_ns)
        for host in state.hosts.values()
        if host.communicators is not None
    ]
    if not found:
        return None
    _, host, at_ns = max(found, key=lambda one: (one[0], one[1].host))
    if host.communicators is None or host.now_ns - at_ns > _OUTDATED_S * 1e9:
        return None
    return host.communicators, at_ns


class _Completion:
    """The ranks of one world beside one answer."""

    def __init__(
        self,
        ranks: dict[int, Process],
        world: int,
        state: RunState,
        answer: ev.CommunicatorsSeen,
        at_ns: int,
    ) -> None:
        self._known = ranks
        self._world = world
        self._state = state
        self._answer = answer
        self._at_ns = at_ns
        self._whole: ev.Communicator | None = None
        self._rank_of = self._match_processes()
        self._groups = _groups_by_members(ranks.values())
        self._found: dict[int, Process] = {}

    def ranks(self) -> dict[int, Process]:
        for communicator in self._answer.communicators:
            lasted_s = (self._at_ns - communicator.still_since_ns) / 1e9
            if 1 < communicator.size <= MOST_RANKS and lasted_s >= APART_S:
                self._read(communicator)
        for place in self._answer.dead:
            rank = self._rank_of.get(place)
            if rank is not None and rank not in self._known:
                self._end(rank, place)
        return dict(sorted({**self._known, **self._found}.items()))

    def _match_processes(self) -> dict[int, int]:
        """By index in the answer, the global rank of a process."""
        ranks: dict[int, int] = {}
        for communicator in self._answer.communicators:
            if communicator.size == self._world and self._is_of_all(communicator):
                # Of the communicator of all, the rank in it is the global rank.
                self._whole = communicator
                for number, place in enumerate(communicator.processes):
                    ranks.setdefault(place, number)
                break
        else:
            by_host = _hosts_of(self._answer.processes, self._known.values())
            seen = {(p.host, p.pid): rank for rank, p in self._known.items() if p.pid}
            for place, (host, pid) in enumerate(self._answer.processes):
                if (rank := seen.get((by_host.get(host, ""), pid))) is not None:
                    ranks[place] = rank
        return {place: r for place, r in ranks.items() if 0 <= place < len(self._answer.processes)}

    def _is_of_all(self, communicator: ev.Communicator) -> bool:
        """Whether each rank that is known has the pid that the answer gives to that rank."""
        pids = [
            (self._known[rank].pid, self._answer.processes[place][1])
            for rank, place in enumerate(communicator.processes)
            if rank in self._known and 0 <= place < len(self._answer.processes)
        ]
        return all(own == told for own, told in pids if own)

    def _members(self, communicator: ev.Communicator) -> list[int | None]:
        """The global rank of each rank in it; None where that is not known."""
        if communicator is self._whole:
            return list(range(communicator.size))
        places = communicator.processes[: communicator.size]
        members = [self._rank_of.get(place) for place in places]
        return members + [None] * (communicator.size - len(members))

    def _read(self, communicator: ev.Communicator) -> None:
        members = self._members(communicator)
        counts = [communicator.count(number) for number in range(communicator.size)]
        group = self._group(communicator, members)
        own = {
            rank: told
            for rank in members
            if rank is not None and (told := _own_progress(self._known.get(rank), group.pg_name))
        }
        if own:
            self._read_beside(communicator, group, members, counts, own)
        else:
            self._read_alone(communicator, group, members, counts)

    def _group(self, communicator: ev.Communicator, members: list[int | None]) -> Group:
        """torch's group with these members, where it is the only one; else one by NCCL's name."""
        known = tuple(rank for rank in members if rank is not None)
        named = self._groups.get(known, {}) if len(known) == len(members) else {}
        if len(named) == 1:
            return next(iter(named.values()))
        return Group(
            pg_name=communicator.name,
            pg_desc="NCCL communicator",
            backend="nccl",
            members=known,
            timeout_s=None,
            site=None,
        )

    def _read_beside(
        self,
        communicator: ev.Communicator,
        group: Group,
        members: list[int | None],
        counts: list[int | None],
        own: Mapping[int, ev.GroupProgress],
    ) -> None:
        """Members with an agent say their numbers: the count of another one is as far from theirs."""
        paired = [
            (told, count)
            for rank, count in zip(members, counts, strict=True)
            if rank is not None and count is not None and (told := own.get(rank))
        ]
        offsets = {told.enqueued - count for told, count in paired}
        if len(offsets) != 1 or any(self._has_moved(rank, told) for rank, told in own.items()):
            return  # some of its calls are counted otherwise, or the answer is older than a call
        offset, completed = offsets.pop(), max(told.completed for told in own.values())
        for rank, count in zip(members, counts, strict=True):
            if rank is not None and rank not in own and count is not None:
                enqueued = max(count + offset, 0)
                self._tell(rank, communicator, group, enqueued, min(enqueued, completed))

    def _has_moved(self, rank: int, told: ev.GroupProgress) -> bool:
        """Whether its numbers changed after the answer; only times of one host are compared."""
        here = self._known[rank].host == self._answer.host
        return here and told.changed_ns > self._at_ns + _LATE_NS

    def _read_alone(
        self,
        communicator: ev.Communicator,
        group: Group,
        members: list[int | None],
        counts: list[int | None],
    ) -> None:
        """Only counts are known: whoever has launched more than another waits for that one."""
        said = [count for count in counts if count is not None]
        least = min(said, default=0)
        behind = [rank for rank, n in zip(members, counts, strict=True) if n == least]
        if max(said, default=0) == least or None in behind:
            return
        for rank, count in zip(members, counts, strict=True):
            if rank is not None and count is not None:
                self._tell(rank, communicator, group, count, least)

    def _tell(
        self, rank: int, communicator: ev.Communicator, group: Group, enqueued: int, completed: int
    ) -> None:
        process = self._process(rank)
        pulse = process.outside.pulse or ev.Pulse(recorder=RAS)
        if any(told.pg_name == group.pg_name for told in pulse.groups):
            return  # what it says itself counts
        progress = ev.GroupProgress(
            pg_name=group.pg_name,
            enqueued=enqueued,
            completed=completed,
            changed_ns=communicator.still_since_ns,
        )
        process.outside.pulse = msgspec.structs.replace(pulse, groups=(*pulse.groups, progress))
        process.groups[group.pg_name] = group
        if enqueued > completed and communicator.op and process.collectives is None:
            entry = self._entry(process, communicator, group, completed + 1)
            process.collectives = ev.CollectivesDumped.of(RAS, (entry,))

    def _entry(
        self, process: Process, communicator: ev.Communicator, group: Group, seq: int
    ) -> Collective:
        return Collective(
            pg_name=group.pg_name,
            pg_desc=group.pg_desc,
            seq=seq,
            op=f"nccl:{operation_name(communicator.op.lower())}",
            created_wall_ns=self._state.wall_ns(process.host, communicator.still_since_ns),
        )

    def _process(self, rank: int) -> Process:
        """A copy of the rank's process that may be changed; a new one where nobody has seen it."""
        if rank not in self._found:
            known = self._known.get(rank)
            process = copy.copy(known) if known is not None else self._unseen(rank)
            process.outside = copy.copy(process.outside)
            process.groups = dict(process.groups)
            self._found[rank] = process
        return self._found[rank]

    def _unseen(self, rank: int) -> Process:
        place = next((place for place, r in self._rank_of.items() if r == rank), None)
        host, pid = self._answer.processes[place] if place is not None else ("an unknown host", 0)
        key = process_key(host, pid, rank)
        seen = ev.ProcessSighted(
            process=key,
            host=host,
            pid=pid,
            start_ticks=0,
            ppid=0,
            role="rank",
            identity=Identity(global_rank=rank, world_size=self._world),
        )
        why = f"only {RAS} tells of it, as pid {pid} on {host}"
        # Its host has no clock here: the answer is the newest that is known of it.
        return Process(
            key=key,
            outside=Sighting(seen=seen, not_observed={"stack": why}),
            last_ns=self._at_ns,
        )

    def _end(self, rank: int, place: int) -> None:
        process = self._process(rank)
        process.outside.exit = ev.ExitSeen(process=process.key, how=DEAD_WORDS)
        process.outside.exit_ns = self._at_ns


def _hosts_of(processes: Iterable[tuple[str, int]], known: Iterable[Process]) -> dict[str, str]:
    """Our name of each host that the answer names, where they share most pids; pids repeat on other hosts."""
    by_pid: dict[int, set[str]] = {}
    for process in known:
        by_pid.setdefault(process.pid, set()).add(process.host)
    shared = Counter(
        (host, name)
        for host, pid in processes
        if len(names := by_pid.get(pid, set())) <= _MOST_HOSTS
        for name in names
    )
    found: dict[str, str] = {}
    if len(shared) > _MOST_PAIRS:
        return found
    for (host, name), number in shared.most_common():
        if host in found or name in found.values():
            continue
        rivals = [
            (h, n)
            for (h, n), same in shared.items()
            if same == number and (h == host) != (n == name)
        ]
        if not any(h not in found and n not in found.values() for h, n in rivals):
            found[host] = name
    return found


def _groups_by_members(processes: Iterable[Process]) -> dict[tuple[int, ...], dict[str, Group]]:
    found: dict[tuple[int, ...], dict[str, Group]] = {}
    for process in processes:
        for group in process.groups.values():
            if group.destroyed_ns is None and not group.world and runs_on_device(group.backend):
                found.setdefault(group.members, {}).setdefault(group.pg_name, group)
    return found


def _own_progress(process: Process | None, pg_name: str) -> ev.GroupProgress | None:
    pulse = process.outside.pulse if process is not None else None
    return next((told for told in pulse.groups if told.pg_name == pg_name), None) if pulse else None
