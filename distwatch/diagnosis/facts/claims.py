"""Processes that claim a wrong rank: one beyond the world, or one that another process has."""

from __future__ import annotations

from itertools import combinations

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.endpoints import endpoint_of, same_endpoint
from distwatch.diagnosis.facts.initializations import holds_world, newest_init, number_of
from distwatch.state.codes import code_of
from distwatch.state.model import Process

BETWEEN_HOSTS_S = 1.0
"""Hosts' clocks are not synchronized: lifetimes that overlap by less may not overlap at all."""


def out_of_range(case: Case) -> dict[int, list[Process]]:
    """Processes whose rank is beyond the world that they planned, by that rank."""
    found: dict[int, list[Process]] = {}
    for rank, claimed in case.job.claims.items():
        for process in claimed:
            size = process.planned.world_size if process.planned else None
            if size is not None and rank >= size and not holds_world(process):
                found.setdefault(rank, []).append(process)
    return found


def duplicates(case: Case) -> dict[int, list[Process]]:
    """Processes that are the same rank of one world at the same time, by that rank."""
    found: dict[int, list[Process]] = {}
    for rank, claimed in case.job.claims.items():
        if len(claimed) < 2:
            continue
        contending = [process for process in claimed if _contends(process)]
        for one, other in combinations(contending, 2):
            if _meet(case, one, other):
                here = found.setdefault(rank, [])
                here += [process for process in (one, other) if process not in here]
    return found


def surplus(case: Case) -> int:
    """How many processes are left over once every rank has one.

    Where a process came with a wrong number, its correct rank is missing: that is not a second fault.
    """
    raised = {
        (one.finding.code, one.finding.culprit_ranks)
        for process in case.job.processes
        for one in process.raised
        if code_of(one.finding.code).claims_rank and not holds_world(process)
    }
    told = sum(len(culprits) for _, culprits in raised)
    seen = sum(len(p) for p in out_of_range(case).values())
    seen += sum(len(p) - 1 for p in duplicates(case).values())
    return max(told, seen)


def _contends(process: Process) -> bool:
    """Whether it is in its newest initialization, holds the resulting world, or failed in it."""
    step = newest_init(process)
    return holds_world(process) or bool(step and (step.ended_ns is None or step.error))


def _meet(case: Case, one: Process, other: Process) -> bool:
    if number_of(one) != number_of(other):
        return False
    if not same_endpoint(endpoint_of(one), endpoint_of(other), case.state):
        return False
    (begun, ended), (began, ends) = _lifetime(case, one), _lifetime(case, other)
    overlap_ns = min(ended, ends) - max(begun, began)
    return overlap_ns > (0 if one.host == other.host else BETWEEN_HOSTS_S * 1e9)


def _lifetime(case: Case, process: Process) -> tuple[int, int]:
    """From its plan to its end, as far as seen, by the wall clock."""
    begun = case.job.wall_ns(process, process.planned_ns or 0)
    return begun, case.job.wall_ns(process, case.job.now_ns(process))
