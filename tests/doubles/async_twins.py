"""Whether the dumps of a random job could as well come from a fault of another rank: then nothing can tell.

The same programs run again with a fault at another rank; where its dumps are the same but for their times,
no verdict on them could name the rank.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from typing import Any

from tests.doubles.async_dumps import dumps_of
from tests.doubles.async_job import AsyncJob, Fault
from tests.doubles.async_scenarios import Scenario

_STOPS = ("cpu stops", "hung kernel")
_MOST = 400


def twin(case: Scenario) -> Fault | None:
    """Another rank's fault that leaves the same dumps; None where there is none among those tried."""
    wanted = _timeless(case.dumps)
    for tried, fault in enumerate(_others(case)):
        if tried >= _MOST:
            break
        programs = copy.deepcopy(case.job.programs)
        programs.calls |= case.unchanged
        job = AsyncJob(programs, fault, case.job.run_ahead, random.Random(case.seed))
        job.run()
        dumps = dumps_of(job, case.how)
        if _timeless({rank: dump for rank, dump in dumps.items() if rank in case.dumps}) == wanted:
            return fault
    return None


def _others(case: Scenario) -> Iterable[Fault]:
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
