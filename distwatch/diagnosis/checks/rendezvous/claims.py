"""rendezvous.rank_duplicated, rank_out_of_range: processes that claim a wrong rank."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.claims import duplicates, out_of_range
from distwatch.diagnosis.facts.endpoints import endpoint_text
from distwatch.diagnosis.facts.init_waits import evidence_of_waiting, wait_clause
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_ranks
from distwatch.visible_text import shorten


class RankOutOfRange:
    """rendezvous.rank_out_of_range: torch lets such a rank wait silently."""

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
            summary=f"{name_ranks(found, 'is', 'are')} out of range: {told}"
            + (f"; {wait_clause(case, waiting)} for a rank that does not exist" if waiting else ""),
            evidence=(*(_evidence(p) for p in processes[:8]), *evidence_of_waiting(case, waiting)),
        )


def _told(rank: int, process: Process) -> str:
    size = process.planned.world_size if process.planned else None
    only = "only rank 0" if size == 1 else f"ranks 0 to {(size or 1) - 1}"
    return f"RANK={rank} with WORLD_SIZE={size}, which allows {only}"


class RankDuplicated:
    """rendezvous.rank_duplicated: torch confuses the two, and others wait for a rank that nobody has."""

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
            culprit_ranks=tuple(sorted(found)),
            waiting_ranks=waiting,
            summary=f"several processes claim the same rank. {told}",
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
    command = f": {shorten(' '.join(process.command), 160)}" if process.command else ""
    text = f"{_named(process)} is rank {rank} of {size}{where}{site}{command}"
    return Evidence("journal", text, rank)
