"""rendezvous.rank_duplicated, rank_out_of_range: processes that take a place that is not theirs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from distwatch.diagnosis.check import Case, name_ranks
from distwatch.diagnosis.init_waits import evidence_of_waiting, wait_clause
from distwatch.diagnosis.initializations import holds_world, newest_init, number_of
from distwatch.diagnosis.meeting_places import endpoint_text, place_of, same_place
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process

BETWEEN_HOSTS_S = 1.0
"""Clocks of hosts are set by themselves: what overlaps by less may not have met."""


def out_of_range(case: Case) -> dict[int, list[Process]]:
    """Processes whose rank is beyond the world that they plan, by that rank."""
    found: dict[int, list[Process]] = {}
    for rank, claimed in case.job.claims.items():
        for process in claimed:
            size = process.planned.world_size if process.planned else None
            if size is not None and rank >= size and not holds_world(process):
                found.setdefault(rank, []).append(process)
    return found


def duplicates(case: Case) -> dict[int, list[Process]]:
    """Processes that are one rank of one world at one time, by that rank."""
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
    """How many processes there are beside those that stand for a rank each.

    Where one came under a wrong number, the rank that it should be is missing: not a second trouble.
    """
    raised = {
        (one.finding.code, one.finding.culprit_ranks)
        for process in case.job.processes
        for one in process.raised
        if one.finding.code in ("rendezvous.rank_duplicated", "rendezvous.rank_out_of_range")
        and not holds_world(process)
    }
    told = sum(len(culprits) for _, culprits in raised)
    seen = sum(len(p) for p in out_of_range(case).values())
    seen += sum(len(p) - 1 for p in duplicates(case).values())
    return max(told, seen)


def _contends(process: Process) -> bool:
    """Whether it is in its newest initialization, holds what came of it, or failed in it."""
    step = newest_init(process)
    return holds_world(process) or bool(step and (step.ended_ns is None or step.error))


def _meet(case: Case, one: Process, other: Process) -> bool:
    if number_of(one) != number_of(other):
        return False
    if not same_place(place_of(one), place_of(other), case.state):
        return False
    (begun, ended), (began, ends) = _lifetime(case, one), _lifetime(case, other)
    overlap_ns = min(ended, ends) - max(begun, began)
    return overlap_ns > (0 if one.host == other.host else BETWEEN_HOSTS_S * 1e9)


def _lifetime(case: Case, process: Process) -> tuple[int, int]:
    """From its plan to its end, as far as that was seen, by the wall clock."""
    begun = case.job.wall_ns(process, process.planned_ns or 0)
    return begun, case.job.wall_ns(process, case.job.now_ns(process))


class RankOutOfRange:
    """rendezvous.rank_out_of_range: torch lets such a rank wait without a word."""

    def find(self, case: Case) -> Iterable[Finding]:
        found = out_of_range(case)
        if not found:
            return
        waiting = tuple(rank for rank in case.waiting if rank not in found)
        processes = [process for claimed in found.values() for process in claimed]
        told = "; ".join(
            _told(rank, process) for rank, claimed in found.items() for process in claimed
        )
        yield Finding(
            code="rendezvous.rank_out_of_range",
            severity="crash" if all(p.ended_ns is not None for p in processes) else "hang",
            culprit_ranks=tuple(sorted(found)),
            waiting_ranks=waiting,
            summary=f"{name_ranks(found)} {'is' if len(found) == 1 else 'are'} out of range: {told}"
            + (f"; {wait_clause(case, waiting)} for a rank that is not there" if waiting else ""),
            advice="Correct RANK or WORLD_SIZE of that process: ranks go from 0 to WORLD_SIZE - 1.",
            evidence=(*(_evidence(p) for p in processes[:8]), *evidence_of_waiting(case, waiting)),
        )


def _told(rank: int, process: Process) -> str:
    size = process.planned.world_size if process.planned else None
    only = "only rank 0" if size == 1 else f"ranks 0 to {(size or 1) - 1}"
    return f"RANK={rank} with WORLD_SIZE={size}, which has {only}"


class RankDuplicated:
    """rendezvous.rank_duplicated: torch mixes the two up, and others wait for a rank that is none."""

    def find(self, case: Case) -> Iterable[Finding]:
        found = duplicates(case)
        if not found:
            return
        told = "; ".join(
            f"{name_ranks([rank])}: {' and '.join(_named(process) for process in claimed)}"
            for rank, claimed in sorted(found.items())
        )
        processes = [process for claimed in found.values() for process in claimed]
        waiting = tuple(rank for rank in case.waiting if rank not in found)
        yield Finding(
            code="rendezvous.rank_duplicated",
            severity="hang",
            culprit_ranks=tuple(sorted(found)),
            waiting_ranks=waiting,
            summary=f"several processes are one rank of one world. {told}",
            advice="Start each rank once: check RANK (or --node-rank) of these processes, and that none of "
            "an earlier run is left over.",
            evidence=(*(_evidence(p) for p in processes[:8]), *evidence_of_waiting(case, waiting)),
        )


def _named(process: Process) -> str:
    return f"pid {process.pid} on {process.host}"


def _evidence(process: Process) -> Evidence:
    plan = process.planned
    rank = plan.global_rank if plan else process.global_rank
    size = plan.world_size if plan else process.world_size
    where = f" at {endpoint_text(process)}" if endpoint_text(process) else ""
    site = f", called at {plan.site}" if plan and plan.site else ""
    command = f": {' '.join(process.command)[:160]}" if process.command else ""
    text = f"{_named(process)} is rank {rank} of {size}{where}{site}{command}"
    return Evidence(source="journal", global_rank=rank, text=text)
