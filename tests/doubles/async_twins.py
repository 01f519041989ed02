"""Whether the dumps of a random job could as well come from a fault of another rank: then nothing can tell.

The job runs again with a fault at another rank: one that stops, hangs or fails, or, where a rank's calls
differ from the others', a program in which those calls are right and another rank's are not. Where the
dumps are the same but for their times, no verdict on them could name the rank.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.doubles.async_dumps import dumps_of
from tests.doubles.async_job import AsyncJob, Fault
from tests.doubles.async_programs import Call, Programs
from tests.doubles.async_scenarios import CHANGES, Scenario, changed

_STOPS = ("cpu stops", "hung kernel")
_MOST = 400
_ORDERS = 3
"""With several streams it depends on chance which of them a device serves first."""


class _Other(NamedTuple):
    """Another job that might have left the same dumps."""

    fault: Fault
    programs: Programs
    run_ahead: dict[int, int]
    """By rank, where it differs: how far CPUs run ahead is nothing that the dumps could disagree with."""


def twin(case: Scenario) -> Fault | None:
    """Another rank's fault that leaves the same dumps; None where there is none among those tried."""
    wanted = _timeless(case.dumps)
    for tried, other in enumerate(_others(case)):
        if tried >= _MOST:
            break
        for order in range(_ORDERS):
            job = AsyncJob(
                copy.deepcopy(other.programs),
                other.fault,
                case.job.run_ahead,
                random.Random(case.seed + order),
                other.run_ahead,
            )
            job.run()
            dumps = dumps_of(job, case.how)
            shown = {rank: dump for rank, dump in dumps.items() if rank in case.dumps}
            if _timeless(shown) == wanted:
                return other.fault
    return None


def _others(case: Scenario) -> Iterable[_Other]:
    programs = _original(case)
    if not case.shows_it:
        yield _Other(Fault(), programs, {})
    for fault in _stops(case):
        yield _Other(fault, programs, {})
        if case.fault.kind == "CUDA error":
            # What its recorder lost looks as if its CPU had run ahead so much farther.
            farther = case.job.run_ahead + case.fault.lag
            yield _Other(fault, programs, {case.fault.rank: farther})
    if case.fault.kind in CHANGES and case.changed_at >= 0:
        yield from _reversed(case, programs)


def _original(case: Scenario) -> Programs:
    programs = Programs(case.job.programs.layout, case.job.programs.groups)
    programs.calls = case.job.programs.calls | {case.fault.rank: case.unchanged}
    return programs


def _stops(case: Scenario) -> Iterator[Fault]:
    """Faults at a rank without a dump, or at one whose device stands where the rank at fault does."""
    for number, rank in case.job.ranks.items():
        if number == case.fault.rank and case.fault.kind != "link down":
            continue
        if number in case.dumps and case.fault.kind != "hung kernel":
            continue
        for kind in _STOPS:
            first = len(rank.done)
            last = len(rank.enqueued) if kind == "cpu stops" and number not in case.dumps else first
            yield from (Fault(kind, number, at) for at in range(last, first - 1, -1))


def _reversed(case: Scenario, programs: Programs) -> Iterator[_Other]:
    """All ranks call what the rank at fault did, but for one, which calls what it should have."""
    rank, layout = case.fault.rank, programs.layout
    stage = layout.world // layout.pp
    alike = {other: case.changed_at for other in programs.calls if other // stage == rank // stage}
    places = {**_places_in_default(case, programs), **alike}
    calls = {
        other: changed(programs.calls[other], case.fault.kind, place)
        for other, place in places.items()
    }
    for other in alike:
        if other == rank:
            continue
        for late in (False, True) if case.fault.kind == "skipped call" else (False,):
            turned = Programs(layout, programs.groups)
            turned.calls = {**programs.calls, **(_made_late(case, calls) if late else calls)}
            turned.calls[other] = programs.calls[other]
            yield _Other(Fault(case.fault.kind, other, case.fault.at), turned, {})


def _made_late(case: Scenario, calls: dict[int, list[Call]]) -> dict[int, list[Call]]:
    """Not skipped, but made as the last of its group: what comes after the ranks are stuck shows nowhere."""
    skipped = case.unchanged[case.changed_at]
    axis = skipped.group.partition("_")[0]
    late: dict[int, list[Call]] = {}
    for rank, program in calls.items():
        groups = case.job.programs.groups_of(rank)
        own = next(name for name in groups if name.partition("_")[0] == axis)
        call = dataclasses.replace(skipped, group=own)
        place = max(n for n, one in enumerate(program) if one.group == own) + 1
        late[rank] = [*program[:place], call, *program[place:]]
    return late


def _places_in_default(case: Scenario, programs: Programs) -> dict[int, int]:
    """Where other stages make the same call, if it is one of the group of all ranks."""
    for offset in (0, 1) if case.fault.kind == "other order" else (0,):
        place = case.changed_at + offset
        if case.unchanged[place].group.startswith("default"):
            count = len(_in_default(case.unchanged[:place]))
            return {
                rank: _in_default(calls)[count] - offset for rank, calls in programs.calls.items()
            }
    return {}


def _in_default(calls: list[Call]) -> list[int]:
    return [
        n for n, call in enumerate(calls) if call.group.startswith("default") and not call.is_p2p
    ]


def _timeless(dumps: dict[int, dict[str, Any]]) -> dict[int, Any]:
    times = ("time_created_ns", "time_discovered_started_ns", "time_discovered_completed_ns")
    return {
        rank: (
            dump["pg_config"],
            dump["pg_status"],
            [{k: v for k, v in entry.items() if k not in times} for entry in dump["entries"]],
        )
        for rank, dump in dumps.items()
    }
