"""What torch's watchdog wrote into the logs of a job that runs, as an observer's events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from distwatch.dumps.group_facts import GroupFacts
from distwatch.dumps.log.clock import UNSAID
from distwatch.dumps.log.facts import Fact, Raised, StuckIn, Who
from distwatch.dumps.log.job_log import LogFile, read_log
from distwatch.state import events as ev


class WrittenLog(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a log. `rank` is None where several ranks write to it."""

    path: str
    rank: int | None
    written_wall_ns: int
    content: bytes


def events_of_watchdog(
    logs: Iterable[WrittenLog], keys: Mapping[int, str], wall_offset: int
) -> list[ev.RecorderFileRead]:
    """One event for each of these ranks whose watchdog tells of a call that does not end.

    Args:
        keys: the processes of this host, by global rank.
        wall_offset: what the host's monotonic clock lacks to the wall clock, in ns.
    """
    by_rank: dict[int, list[Fact]] = {}
    paths: dict[int, str] = {}
    taken_ns = 0
    for log in logs:
        for fact in _facts_of(log):
            if (rank := fact.who.global_rank) is not None:
                by_rank.setdefault(rank, []).append(fact)
                paths[rank] = log.path
                taken_ns = max(taken_ns, log.written_wall_ns)
    if not any(isinstance(fact, StuckIn) for facts in by_rank.values() for fact in facts):
        return []
    groups = GroupFacts(by_rank, max(by_rank) + 1, frozenset())
    found = []
    for rank in sorted(groups.ranks() & keys.keys()):
        progress = tuple(
            msgspec.structs.replace(one, changed_ns=one.changed_ns - wall_offset)
            for one in groups.progress(rank)
        )
        found.append(
            ev.RecorderFileRead(
                process=keys[rank],
                path=paths.get(rank, ""),
                taken_ns=taken_ns - wall_offset,
                groups=tuple(groups.created(rank)),
                dumped=ev.CollectivesDumped.of("watchdog", groups.entries(rank)),
                pulse=ev.Pulse(groups=progress, recorder="torch's watchdog"),
            )
        )
    return found


def events_of_aborts(
    logs: Iterable[tuple[bytes, frozenset[int]]], keys: Mapping[int, str]
) -> list[ev.ErrorFileRead]:
    """The C++ exceptions of these processes, which SIGABRT ended.

    Where several of them share a log and a line names no rank, it counts if all such lines agree on the type.

    Args:
        logs: the end of each log, and the ranks that wrote to it.
        keys: the processes by global rank.
    """
    raised: dict[int, Raised] = {}
    for content, writers in logs:
        own = Who(global_rank=min(writers)) if len(writers) == 1 else Who()
        facts = read_log(LogFile(name="log", content=content, scope="log", who=own))
        newest = max((one.who.attempt for one in facts), default=0)
        found = [
            one
            for one in facts
            if isinstance(one, Raised)
            and one.uncaught
            and not one.traceback  # a C++ exception has none
            and one.who.attempt == newest
        ]
        nameless = [one for one in found if one.who.global_rank is None]
        if len({one.type_name for one in nameless}) == 1:
            raised |= dict.fromkeys(writers & keys.keys(), nameless[-1])
        for one in found:
            if (rank := one.who.global_rank) is not None and rank in keys:
                raised[rank] = one
    return [
        ev.ErrorFileRead(process=keys[rank], type_name=one.type_name, message=one.message)
        for rank, one in sorted(raised.items())
    ]


def _facts_of(log: WrittenLog) -> list[Fact]:
    """The facts of a log, with the times of this host: the newest is as old as the file."""
    year = time.gmtime(log.written_wall_ns / 1e9).tm_year
    named = LogFile(
        name=log.path,
        content=log.content,
        scope=log.path,
        who=Who(global_rank=log.rank),
        year=year,
    )
    facts = read_log(named)
    # The prefix of torch says neither a year nor a time zone.
    newest = max((fact.time_ns for fact in facts if fact.time_ns >= UNSAID), default=0)
    late_ns = log.written_wall_ns - newest
    return [
        msgspec.structs.replace(
            fact,
            time_ns=fact.time_ns + late_ns if fact.time_ns >= UNSAID else log.written_wall_ns,
        )
        for fact in facts
    ]
