"""Findings about ranks that run without distwatch, from their stacks alone."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.stack_calls import (
    STILL_S,
    is_seen_from_outside,
    still_s,
    waits_in_by_stack,
)
from distwatch.state.finding import Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_by, name_ranks, ranks_by

_ONLY_STACKS = (
    "distwatch sees only stacks here: run the job with `distwatch run -- …` to see sequence numbers, groups "
    "and deadlines."
)
_P2P = frozenset(("send", "recv"))


class CallsByStack:
    """Of a job without distwatch: some ranks are in a call and others are not, or all are in calls that differ."""

    def find(self, case: Case) -> Iterable[Finding]:
        ranks = case.job.ranks
        # A stack that has changed since shows that this rank still moves.
        still = {r: s for r, p in ranks.items() if (s := still_s(p)) >= STILL_S}
        if not is_seen_from_outside(case.job) or len(still) < len(ranks) or case.waiting:
            return
        if not all(process.main_frames for process in ranks.values()):
            return
        inside = {r: call for r, p in ranks.items() if (call := waits_in_by_stack(case.job, p))}
        outside = [rank for rank in ranks if rank not in inside]
        if not inside:
            return
        calls = set(inside.values())
        if outside:
            yield self._missing(case, inside, outside, min(still.values()))
        elif len(calls) > 1 or calls == {"recv"}:
            yield self._unlike(case, inside, min(still.values()))

    def _missing(
        self, case: Case, inside: dict[int, str], outside: list[int], lasted_s: float
    ) -> Finding:
        place = case.where(outside[0]) if len(outside) == 1 else ""
        operations = ", ".join(sorted(set(inside.values())))
        return Finding(
            code="collective.rank_missing",
            culprit_ranks=tuple(outside),
            waiting_ranks=tuple(inside),
            summary=f"{name_ranks(outside, 'is', 'are')} elsewhere{self._doing(case, outside, place)} while "
            f"{name_ranks(inside, 'is', 'are')} in {operations}; no stack has changed for {seconds(lasted_s)}",
            advice=_ONLY_STACKS,
            evidence=tuple(case.place(rank) for rank in [*outside, *inside][:8]),
            confidence=0.5 if lasted_s == STILL_S else 0.6,  # one look only
        )

    def _unlike(self, case: Case, inside: dict[int, str], lasted_s: float) -> Finding:
        """The smaller side is odd; where the sides are equal, nobody can be told from the others."""
        sides = sorted(ranks_by(inside).values(), key=len)
        decided = len(sides) > 1 and len(sides[0]) < len(sides[-1])
        odd = sorted(sides[0] if decided else inside)
        calls = set(inside.values())
        code = "p2p.unmatched" if calls & _P2P and calls - _P2P else "collective.op_mismatch"
        if calls <= _P2P:
            code = "p2p.cycle"
        return Finding(
            code=code,
            culprit_ranks=tuple(odd),
            waiting_ranks=tuple(rank for rank in inside if rank not in odd),
            summary=f"the ranks wait for each other in calls that do not fit: "
            f"{'; '.join(name_by(inside, ' is in ', ' are in '))}; no stack has changed for {seconds(lasted_s)}",
            evidence=tuple(case.place(rank) for rank in list(inside)[:8]),
            confidence=0.6 if decided else 0.5,
        )

    def _doing(self, case: Case, outside: list[int], place: str) -> str:
        if not place:
            return ""
        activity = activity_of(case.state, case.job.ranks[outside[0]])
        return f" (at {place}{', ' + activity.doing if activity and activity.certain else ''})"
