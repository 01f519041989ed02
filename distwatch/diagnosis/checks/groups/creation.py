"""group.*: process groups that not every member creates."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.checks.groups.calls import first_skew
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.communication import has_timed_out
from distwatch.diagnosis.facts.init_waits import step_evidence
from distwatch.diagnosis.facts.initializations import stuck_creation
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Step
from distwatch.state.rank_sets import name_ranks
from distwatch.state.steps import GROUP


class GroupCallMissing:
    """group.call_missing: a rank never made a `new_group` call that others are in."""

    def find(self, case: Case) -> Iterable[Finding]:
        stuck: dict[int, dict[int, Step]] = {}
        for rank, process in case.job.ranks.items():
            step = stuck_creation(process)
            if step is not None and process.group_calls:
                stuck.setdefault(max(process.group_calls), {})[rank] = step
        late = [number for number, waiting in stuck.items() if self._any_overdue(case, waiting)]
        skew = first_skew(case) if late else None
        for number, waiting in sorted(stuck.items()):
            if skew is not None and number >= skew.number:
                return  # the numbers do not mean the same calls here
            # Who is late for one group may wait in an earlier one, and began to a moment later.
            if number <= max(late, default=-1):
                yield from self._missing(case, number, waiting)

    def _any_overdue(self, case: Case, waiting: dict[int, Step]) -> bool:
        return any(self._is_overdue(case, rank, step) for rank, step in waiting.items())

    def _is_overdue(self, case: Case, rank: int, step: Step) -> bool:
        if step.error and has_timed_out(step.error):
            return True
        process = case.job.ranks[rank]
        limit = case.job.limit_s(process, step, GROUP)
        until_ns = step.ended_ns if step.ended_ns is not None else case.job.now_ns(process)
        return (until_ns - step.started_ns) / 1e9 > limit

    def _missing(self, case: Case, number: int, waiting: dict[int, Step]) -> Iterable[Finding]:
        call = case.job.ranks[next(iter(waiting))].group_calls.get(number)
        world = range(case.job.world or len(case.job.ranks))
        members = tuple(call.members) if call and call.members is not None else tuple(world)
        absent = [
            rank
            for rank in members
            if (process := case.job.ranks.get(rank)) is not None
            and process.instrumented
            and (process.ended_ns is None or rank in case.deaths.victims)
            and max(process.group_calls, default=0) < number
        ]
        if not absent:
            return
        named = f" {call.pg_desc!r}" if call and call.pg_desc else ""
        title = f"new_group #{number}{named} ({name_ranks(members)})"
        first = waiting[next(iter(waiting))]
        yield Finding(
            code="group.call_missing",
            culprit_ranks=tuple(absent),
            waiting_ranks=tuple(waiting),
            pg_desc=call.pg_desc or None if call else None,
            summary=f"{name_ranks(absent)} never called {title}; {name_ranks(waiting, 'waits', 'wait')} in it"
            f"{' at ' + str(first.site) if first.site else ''}",
            evidence=(
                *(step_evidence(case, rank, step) for rank, step in list(waiting.items())[:4]),
                *(_evidence_of_absence(case, rank) for rank in absent[:8]),
                *(case.place(rank) for rank in absent[:4]),
            ),
        )


def _evidence_of_absence(case: Case, rank: int) -> Evidence:
    calls = case.job.ranks[rank].group_calls
    count = max(calls, default=0)
    last = calls.get(count)
    site = f", the last at {last.site}" if last and last.site else ""
    text = f"rank {rank} has made {count} new_group call{'s' if count != 1 else ''}{site}"
    return Evidence("journal", text, rank)
