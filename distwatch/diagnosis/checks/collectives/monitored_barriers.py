"""collective.rank_missing for monitored_barrier, which no recorder counts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.diagnosis.checks.processes.debugging import debugged_by_intent
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.monitored_barriers import unfinished_barrier
from distwatch.state.events import Operation
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Group
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.state.steps import COLLECTIVE

_NAMED = re.compile(r"(?i)\bRanks? ([\d, ]{1,2000}) failed to pass monitoredBarrier")


class MonitoredBarrierMissing:
    """Some members are in a monitored_barrier past the deadline, or failed in it; others never entered it."""

    def find(self, case: Case) -> Iterable[Finding]:
        named = _named_absent(case)
        yield from (self._named(case, rank, absent) for rank, absent in named.items())
        if named:
            return
        inside: dict[tuple[str, tuple[int, ...]], dict[int, Operation]] = {}
        for rank, process in case.job.ranks.items():
            operation = unfinished_barrier(process)
            group = process.groups.get(operation.pg_name) if operation else None
            if operation is not None and group is not None:
                inside.setdefault((group.pg_name, group.members), {})[rank] = operation
        for (pg_name, members), operations in inside.items():
            missing = [rank for rank in members if rank not in operations]
            group = case.job.ranks[min(operations)].groups[pg_name]
            if not missing or not self._is_over(case, operations, group):
                continue
            if not all(debugged_by_intent(case, rank) for rank in missing):
                yield self._finding(case, group, operations, missing)

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

    def _is_over(self, case: Case, operations: dict[int, Operation], group: Group) -> bool:
        for rank, operation in operations.items():
            process = case.job.ranks[rank]
            limit_s = case.job.deadline_s(process, COLLECTIVE, group.timeout_s)
            if operation.left_ns or case.job.age_s(process, operation.entered_ns) > limit_s:
                return True
        return False

    def _finding(
        self, case: Case, group: Group, operations: dict[int, Operation], missing: list[int]
    ) -> Finding:
        culprits = tuple(rank for rank in missing if not case.graph.is_waiting(rank))
        waited_s = max(
            case.job.age_s(case.job.ranks[rank], operation.entered_ns)
            for rank, operation in operations.items()
        )
        where = case.where(missing[0]) if len(missing) == 1 else ""
        place = f"; rank {missing[0]} is at {where}" if where else ""
        return Finding(
            code="collective.rank_missing",
            role="root" if culprits else "symptom",
            culprit_ranks=culprits,
            waiting_ranks=tuple(operations),
            pg_name=group.pg_name,
            pg_desc=group.pg_desc or None,
            summary=f"{name_ranks(culprits or missing)} never entered the monitored_barrier of "
            f"{group.pg_desc or group.pg_name}{place}; "
            f"{name_ranks(operations)} entered it {seconds(waited_s)} ago",
            evidence=(
                *(case.place(rank) for rank in missing[:8]),
                *(_entered(case, rank, operations[rank]) for rank in list(operations)[:4]),
            ),
            confidence=0.95 if culprits else 0.6,
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


def _entered(case: Case, rank: int, operation: Operation) -> Evidence:
    site = case.job.site_of(rank, operation)
    text = f"rank {rank}: monitored_barrier{case.at(site)}"
    return Evidence("operations", text, rank)
