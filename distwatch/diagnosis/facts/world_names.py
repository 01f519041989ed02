"""Names of processes for the people of one world, where some are of another one."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.framework_places import places_of
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_ranks

_NAMED = 4


def ranks_here(case: Case, processes: Iterable[Process]) -> tuple[int, ...]:
    """Global ranks of the processes that belong to this world."""
    here = {process.key: rank for rank, process in case.job.ranks.items()}
    return tuple(sorted(here[process.key] for process in processes if process.key in here))


def named(case: Case, processes: list[Process]) -> str:
    """`rank 1 and rank 0 of another world (pid 4711, Trainer in fit, tensor rank 0 of 2 in megatron)`."""
    ranks = ranks_here(case, processes)
    here = {process.key for process in case.job.processes}
    others = [process for process in processes if process.key not in here]
    words = [name_ranks(ranks)] if ranks else []
    words += [_abroad(process) for process in others[:_NAMED]]
    if len(others) > _NAMED:
        words[-1] = f"{len(others) - _NAMED + 1} more ranks of other worlds"
    return " and ".join(words) or "nobody"


def _abroad(process: Process) -> str:
    places = places_of(process) or list(process.layouts)
    told = ", ".join(filter(None, (f"pid {process.pid}", process.actor, *places)))
    return f"rank {process.global_rank} of another world ({told})"
