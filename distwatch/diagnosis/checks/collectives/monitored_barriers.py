"""collective.rank_missing and op_mismatch for monitored_barrier, which no recorder counts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.diagnosis.checks.processes.debugging import debugged_by_intent
from distwatch.diagnosis.facts.barrier_calls import unfinished_barrier
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.collective_wait import Wait
from distwatch.diagnosis.facts.monitored_barriers import MonitoredBarrier, monitored_barriers
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks

_NAMED = re.compile(r"(?i)\bRanks? ([\d, ]{1,2000}) failed to pass monitoredBarrier")


class MonitoredBarrierMissing:
    """Some members are in a monitored_barrier past the deadline, or failed in it; others never entered it."""

    def find(self, case: Case) -> Iterable[Finding]:
        named = _named_absent(case)
        yield from (self._named(case, rank, absent) for rank, absent in named.items())
        if named:
            return
        for barrier in monitored_barriers(case.job):
            if not barrier.missing or not any(wait.overdue for wait in barrier.waits.values()):
                continue
            elif called := _other_calls(case, barrier):
                yield _mismatch(case, barrier, called)
            elif not all(debugged_by_intent(case, rank) for rank in barrier.missing):
                yield self._finding(case, barrier)

    def _named(self, case: Case, rank: int, absent: tuple[int, ...]) -> Finding:
        """Rank 0 waits for each rank in turn, and its error names who did not come."""
        waiting = tuple(r for r in case.job.ranks if r not in absent)
        error = case.job.ranks[rank].exception
        where = case.where(absent[0]) if len(absent) == 1 else ""
        place = f"; rank {absent[0]} is at {where}" if where else ""
        return Finding(
            code="collective.rank_missing",
            culprit_ranks=absent,
            waiting_ranks=waiting,
            summary=f"{name_ranks(absent)} never entered the monitored_barrier{place}; "
            f"rank {rank} waited for {agree(absent, 'it', 'them')} until the timeout",
            evidence=(
                Evidence("journal", error.message[:300] if error else "", rank),
                *(case.place(one) for one in absent[:8]),
            ),
            confidence=0.9,
        )

    def _finding(self, case: Case, barrier: MonitoredBarrier) -> Finding:
        missing, inside = barrier.missing, tuple(barrier.waits)
        culprits = tuple(rank for rank in missing if not case.graph.is_waiting(rank))
        where = case.where(missing[0]) if len(missing) == 1 else ""
        place = f"; rank {missing[0]} is at {where}" if where else ""
        return Finding(
            code="collective.rank_missing",
            role="root" if culprits else "symptom",
            culprit_ranks=culprits,
            waiting_ranks=inside,
            pg_name=barrier.group.pg_name,
            pg_desc=barrier.group.pg_desc or None,
            summary=f"{name_ranks(culprits or missing)} never entered the {barrier.call}{place}; "
            f"{name_ranks(inside)} entered it {seconds(_longest_s(barrier))} ago",
            evidence=(
                *(case.place(rank) for rank in missing[:8]),
                *(_entered(case, rank) for rank in inside[:4]),
            ),
            confidence=0.95 if culprits else 0.6,
        )


def _longest_s(barrier: MonitoredBarrier) -> float:
    return max(wait.waited_s for wait in barrier.waits.values())


def _other_calls(case: Case, barrier: MonitoredBarrier) -> dict[int, Wait]:
    """The members that wait in another collective of that group, where none is anywhere else."""
    group = barrier.group
    waits = case.job.waits_in(group.pg_name, group.members)
    elsewhere = {w.global_rank: w for w in waits if w.global_rank not in barrier.waits}
    return elsewhere if len(elsewhere) == len(barrier.missing) else {}


def _mismatch(case: Case, barrier: MonitoredBarrier, called: dict[int, Wait]) -> Finding:
    """Each side waits for the other, and the fewer ranks are the odd ones."""
    sides = sorted((tuple(called), tuple(barrier.waits)), key=len)
    is_decided = len(sides[0]) < len(sides[1])
    view = case.view(barrier.group.pg_name, barrier.group.members)
    return Finding(
        code="collective.op_mismatch",
        culprit_ranks=sides[0] if is_decided else tuple(sorted((*sides[0], *sides[1]))),
        waiting_ranks=sides[1] if is_decided else (),
        pg_name=view.pg_name,
        pg_desc=view.pg_desc or None,
        summary=f"{name_ranks(barrier.waits, 'is', 'are')} in a {barrier.call}, "
        f"and {name_ranks(called, 'is', 'are')} in {view.call}; for {seconds(_longest_s(barrier))}",
        evidence=(
            *(_entered(case, rank) for rank in list(barrier.waits)[:4]),
            *(case.place(rank) for rank in list(called)[:8]),
        ),
        confidence=0.9 if is_decided else 0.6,
    )


def _named_absent(case: Case) -> dict[int, tuple[int, ...]]:
    """By the rank that waited for them, the ranks that its own error names; of the whole world's barrier."""
    found: dict[int, tuple[int, ...]] = {}
    for rank, process in case.job.ranks.items():
        said = _NAMED.search(process.exception.message) if process.exception else None
        # Such a message counts within its group, and does not say which: in the world's both are the same.
        subgroups = [g for g in process.groups.values() if len(g.members) != case.job.world]
        if said and not subgroups:
            absent = tuple(sorted({int(one) for one in re.findall(r"\d{1,6}", said[1])}))
            if all(one < (case.job.world or 0) for one in absent):
                found[rank] = absent
    return found


def _entered(case: Case, rank: int) -> Evidence:
    operation = unfinished_barrier(case.job.ranks[rank])
    site = case.job.site_of(rank, operation) if operation else None
    text = f"rank {rank}: monitored_barrier{case.at(site)}"
    return Evidence("operations", text, rank)
