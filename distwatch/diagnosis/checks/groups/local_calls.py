"""group.counter_skew of groups that only their members create (`use_local_synchronization=True`)."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.initializations import stuck_creation
from distwatch.state.agreement import odd_ones
from distwatch.state.events import LocalGroupCalled
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import name_by, name_ranks
from distwatch.state.steps import GROUP

SETTLED_S = 2.0


class LocalCounterSkew:
    """Members wait for each other in the creation of one group, and torch gave it another name on some."""

    def find(self, case: Case) -> Iterable[Finding]:
        calls: dict[tuple[int, ...], dict[int, LocalGroupCalled]] = {}
        for rank in case.job.ranks:
            call = _stuck_call(case, rank)
            if call is not None and call.members is not None:
                calls.setdefault(tuple(sorted(call.members)), {})[rank] = call
        for members, waiting in calls.items():
            if len({call.held for call in waiting.values()}) > 1:
                yield self._finding(case, members, waiting)

    def _finding(
        self, case: Case, members: tuple[int, ...], waiting: dict[int, LocalGroupCalled]
    ) -> Finding:
        odd, decided = odd_ones({rank: str(call.held) for rank, call in waiting.items()})
        held = {rank: count_of(call.held, "group") for rank, call in waiting.items()}
        return Finding(
            code="group.counter_skew",
            culprit_ranks=tuple(sorted(odd)),
            waiting_ranks=tuple(rank for rank in waiting if rank not in odd),
            summary=f"{name_ranks(members)} create a group with use_local_synchronization, and torch names it by the "
            f"number of groups that a process holds: {'; '.join(name_by(held, ' held ', ' held '))}, so they wait "
            "for each other under different names",
            advice="Make and destroy the same number of groups on all members before that call, or call new_group "
            "without use_local_synchronization on every rank.",
            evidence=tuple(
                e for rank, call in list(waiting.items())[:8] for e in _evidence(case, rank, call)
            ),
            confidence=0.9 if decided == "majority" else 0.7,
        )


def _stuck_call(case: Case, rank: int) -> LocalGroupCalled | None:
    """The call that it is in for a while, or that failed since others were missing."""
    process = case.job.ranks[rank]
    step = stuck_creation(process)
    if step is None or not process.local_group_calls or "members only" not in step.name:
        return None
    limit_s = min(SETTLED_S, case.job.limit_s(process, step, GROUP))
    if step.ended_ns is None and case.job.age_s(process, step.started_ns) < limit_s:
        return None
    return process.local_group_calls[max(process.local_group_calls)]


def _evidence(case: Case, rank: int, call: LocalGroupCalled) -> Iterable[Evidence]:
    groups = case.job.ranks[rank].groups.values()
    names = [f"{g.pg_desc or 'group'} ({g.pg_name[:12]})" for g in groups if g.destroyed_ns is None]
    text = f"rank {rank} held {count_of(call.held, 'group')} at its call{case.at(call.site)}: {', '.join(names[-8:])}"
    yield Evidence("journal", text, rank)
