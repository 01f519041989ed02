"""Findings about ranks that run without distwatch, from their stacks alone."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.case import Case
from distwatch.state.finding import Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks

STILL_S = 10.0


class MissingByStack:
    """collective.rank_missing for a job without distwatch: some ranks are in a collective, others are not."""

    def find(self, case: Case) -> Iterable[Finding]:
        ranks = case.job.ranks
        if not ranks or any(process.instrumented for process in ranks.values()):
            return
        still = {r: s for r in ranks if (s := self._still_s(case, r)) is None or s >= STILL_S}
        seen = {r for r in still if ranks[r].main_frames}
        inside = {r: op for r in seen if (op := case.job.in_collective_by_stack(ranks[r]))}
        outside = [rank for rank in ranks if rank not in inside]
        # A stack that changed since shows that this rank still moves.
        if not inside or not outside or any(rank not in seen for rank in outside):
            return
        operations = ", ".join(sorted(set(inside.values())))
        place = case.where(outside[0]) if len(outside) == 1 else ""
        yield Finding(
            code="collective.rank_missing",
            culprit_ranks=tuple(outside),
            waiting_ranks=tuple(inside),
            summary=f"{name_ranks(outside, 'is', 'are')} elsewhere{self._doing(case, outside, place)} while "
            f"{name_ranks(inside, 'is', 'are')} in {operations}{_unchanged(still.values())}",
            advice="distwatch sees only stacks here: run the job with `distwatch run -- …` to see sequence "
            "numbers, groups and deadlines.",
            evidence=tuple(case.place(rank) for rank in [*outside, *inside][:8]),
            confidence=0.5 if None in still.values() else 0.6,
        )

    def _doing(self, case: Case, outside: list[int], place: str) -> str:
        if not place:
            return ""
        activity = activity_of(case.state, case.job.ranks[outside[0]])
        return f" (at {place}{', ' + activity.doing if activity and activity.certain else ''})"

    def _still_s(self, case: Case, rank: int) -> float | None:
        """For how long its stack has been the same; None: there was only one look, of a job that hangs."""
        process = case.job.ranks[rank]
        stack = process.outside.stack
        if stack is None or process.ended_ns is not None:
            return 0.0
        if stack.unchanged_since_ns is None:
            return None
        return case.job.age_s(process, stack.unchanged_since_ns)


def _unchanged(still: Iterable[float | None]) -> str:
    known = [lasted for lasted in still if lasted is not None]
    return f"; no stack has changed for {seconds(min(known))}" if known else ""
