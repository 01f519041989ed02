"""collective.timeout_disagrees: the members of a group have different timeouts."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.state.agreement import odd_ones
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_by


class TimeoutsDisagree:
    """A warning: different timeouts hang no job, but the shortest one ends all members."""

    def find(self, case: Case) -> Iterable[Finding]:
        # rendezvous.config_disagrees compares what ranks gave to init_process_group.
        plans = [p.planned for p in case.job.ranks.values() if p.planned]
        # distwatch.initialize forms the world with what is left of its deadline, and then sets torch's timeout.
        known = len({p.timeout_s for p in plans}) > 1 or any(p.by == "distwatch" for p in plans)
        for view in case.groups:
            held = self._timeouts(case, view)
            if len(set(held.values())) > 1 and not (view.pg_desc == "default_pg" and known):
                yield self._finding(case, view, held)

    def _timeouts(self, case: Case, view: GroupView) -> dict[int, float]:
        held: dict[int, float] = {}
        key = case.job.group_key(view.pg_name, view.members)
        for rank in view.members:
            process = case.job.ranks.get(rank)
            group = process.groups.get(view.pg_name) if process else None
            if group is None or not group.timeout_s:
                continue
            if case.job.group_key(group.pg_name, group.members) == key:
                held[rank] = group.timeout_s
        return held

    def _finding(self, case: Case, view: GroupView, held: dict[int, float]) -> Finding:
        told = {rank: f"{timeout_s:g} s" for rank, timeout_s in held.items()}
        odd, decided = odd_ones(told)
        shortest = min(held, key=lambda rank: held[rank])
        return Finding(
            code="collective.timeout_disagrees",
            severity="warning",
            culprit_ranks=tuple(sorted(odd)),
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"the members of {view.title} have different timeouts ({', '.join(name_by(told))}): "
            f"rank {shortest} gives up after {seconds(held[shortest])}, which ends the others, too",
            evidence=tuple(
                Evidence("journal", f"rank {rank}: {told[rank]}{_site(case, view, rank)}", rank)
                for rank in list(held)[:16]
            ),
            confidence=0.95 if decided == "majority" else 0.7,
        )


def _site(case: Case, view: GroupView, rank: int) -> str:
    group = case.job.ranks[rank].groups.get(view.pg_name)
    return case.at(group.site if group else None, ", made at")
