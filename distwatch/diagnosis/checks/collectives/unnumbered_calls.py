"""Ranks that wait for each other in calls that nothing counts, by their stacks: before torch 2.8, gloo's from C++."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.stack_calls import WORK, StackCall, call_by_stack
from distwatch.diagnosis.facts.unnumbered_calls import all_wait, limit_s, ranks_in_no_call, slept_s
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_by, name_ranks, ranks_by

_ADVICE = (
    "From torch 2.8 on its flight recorder sees gloo's calls from C++, too: then the verdict names the call, "
    "its number and its group."
)
_UNCOUNTED = Evidence(
    "flight_recorder",
    "this torch records no calls of gloo, and those that C++ makes (DDP, FSDP, DTensor) have no number here",
)
_SHOWN = 8


class UnnumberedCalls:
    """No number tells who waits for whom: some ranks are in a call and others in none, or the calls differ."""

    def find(self, case: Case) -> Iterable[Finding]:
        ranks, waiting = case.job.ranks, case.unnumbered
        if not waiting or case.waiting or not all(p.main_frames for p in ranks.values()):
            return
        if not (self._is_due(case, waiting) or _others_are_overdue(case, waiting)):
            return
        lasted_s = min(slept_s(ranks[rank]) for rank in waiting)
        outside = [r for r in ranks_in_no_call(case.job) if not case.graph.is_waiting(r)]
        if outside:
            yield self._missing(case, outside, lasted_s)
        elif all_wait(case.job, waiting) and not case.job.device.queues:
            yield self._all_inside(case, lasted_s)

    def _is_due(self, case: Case, waiting: dict[int, StackCall]) -> bool:
        ranks = [case.job.ranks[rank] for rank in waiting]
        return all(slept_s(process) >= limit_s(case.job, process) for process in ranks)

    def _missing(self, case: Case, outside: list[int], lasted_s: float) -> Finding:
        waiting = sorted({*case.unnumbered, *case.graph.behind(outside)} - set(outside))
        calls = ", ".join(sorted({str(call) for call in case.unnumbered.values()}))
        where = case.where(outside[0]) if len(outside) == 1 else ""
        return Finding(
            code="collective.rank_missing",
            culprit_ranks=tuple(outside),
            waiting_ranks=tuple(waiting),
            summary=f"{name_ranks(outside, 'is', 'are')} elsewhere{f', at {where}' if where else ''}, while "
            f"{name_ranks(case.unnumbered, 'is', 'are')} in {calls}, where nothing has moved for "
            f"{seconds(lasted_s)}",
            advice=_ADVICE,
            evidence=(_UNCOUNTED, *_places(case, [*outside, *waiting])),
            confidence=0.6,
        )

    def _all_inside(self, case: Case, lasted_s: float) -> Finding:
        calls = {r: c for r, p in case.job.ranks.items() if (c := call_by_stack(case.job, p))}
        told = {rank: str(call) for rank, call in calls.items()}
        sides = sorted(ranks_by(told).values(), key=len)
        if len(sides) < 2:
            return self._alike(case, told, lasted_s)
        # What an asynchronous call waits for is not known: who waits in it need not be the odd one.
        decided = len(sides[0]) < len(sides[-1]) and WORK not in told.values()
        odd = sorted(sides[0] if decided else told)
        return Finding(
            code="collective.op_mismatch",
            culprit_ranks=tuple(odd),
            waiting_ranks=tuple(rank for rank in told if rank not in odd),
            summary="the ranks wait for each other in calls that do not fit: "
            f"{'; '.join(name_by(told, ' is in ', ' are in '))}; nothing has moved for {seconds(lasted_s)}",
            advice=_ADVICE,
            evidence=(_UNCOUNTED, *_places(case, told)),
            confidence=0.6 if decided else 0.5,
        )

    def _alike(self, case: Case, told: dict[int, str], lasted_s: float) -> Finding:
        return Finding(
            code="collective.device_behind",
            waiting_ranks=tuple(told),
            summary=f"all of {name_ranks(told)} are in {next(iter(told.values()))}, where nothing has moved for "
            f"{seconds(lasted_s)}; whether their calls differ cannot be seen, and no rank can be named",
            advice="Compare what each rank passes to this call, and in which order it calls its groups; then look at "
            f"the network between the ranks' hosts. {_ADVICE}",
            evidence=(_UNCOUNTED, *_places(case, told)),
            confidence=0.4,
        )


def _others_are_overdue(case: Case, waiting: dict[int, StackCall]) -> bool:
    """Whether the numbers of others show that these have not come: they may have come to a call without one."""
    return any(view.overdue and set(waiting) & set(view.missing) for view in case.groups)


def _places(case: Case, ranks: Iterable[int]) -> list[Evidence]:
    return [case.place(rank) for rank in list(ranks)[:_SHOWN]]
