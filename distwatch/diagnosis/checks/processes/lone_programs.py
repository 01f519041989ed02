"""A program without ranks, seen only from outside: a converter, a preprocessor, whatever precedes a job.

Nobody waits for it, so only what it does itself shows that it hangs.
"""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.checks.processes.blocked_ranks import Blocked, lost_child, why_blocked
from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.children import children_of
from distwatch.diagnosis.facts.idleness import awaits_requests
from distwatch.diagnosis.facts.movement import movement_of
from distwatch.diagnosis.facts.process_roles import role_text, works
from distwatch.diagnosis.facts.rank_status import where
from distwatch.diagnosis.facts.stack_calls import STILL_S, still_s
from distwatch.diagnosis.facts.worlds import is_lone_program
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.steps import COLLECTIVE

_NAMED = ("converter", "driver", "pool worker")
_LISTED = 4


class LoneProgramStuck:
    """It waits for a child process that was killed; or nothing of it has moved for a whole deadline."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            still = still_s(process)
            if not is_lone_program(process) or still < STILL_S or movement_of(case, rank):
                continue
            blocked = lost_child(case, rank, process)
            if blocked is None and still >= case.job.deadline_s(process, COLLECTIVE):
                idle = awaits_requests(case.job, rank)
                blocked = (
                    None if idle else why_blocked(case, rank, process) or _by_child(case, rank)
                )
            if blocked is not None:
                yield _finding(case, rank, process, blocked, still)


def _by_child(case: Case, rank: int) -> Blocked | None:
    """It waits for a pool or a child, one of which works at something and has not moved either."""
    process = case.job.ranks[rank]
    activity = activity_of(case.state, process)
    if activity is None or activity.kind not in ("queue", "child"):
        return None
    for child in (child.process for child in children_of(case, process)):
        if child.ended_ns is None and works(child) and still_s(child) >= STILL_S:
            inner = why_blocked(case, rank, child)
            code, evidence = (inner.code, inner.evidence) if inner else ("process.lock_wait", ())
            return Blocked(code, f"waits for {activity.text}", evidence, 0.7)
    return None


def _finding(case: Case, rank: int, process: Process, blocked: Blocked, still: float) -> Finding:
    place, role = case.where(rank), role_text(case.state, process)
    children = _places_of_children(case, process)
    first = f"; {children[0]}" if children else ""
    return Finding(
        code=blocked.code,
        culprit_ranks=(),
        summary=f"the {role if role in _NAMED else 'program'} with pid {process.pid} on {process.host} "
        f"{blocked.doing}{', at ' + place if place else ''}; its stack has not changed for "
        f"{seconds(still)}{first}",
        advice=blocked.advice,
        evidence=(
            *blocked.evidence,
            case.place(rank),
            *(Evidence("stack", text) for text in children[:_LISTED]),
        ),
        confidence=min(blocked.confidence, 0.8),
    )


def _places_of_children(case: Case, process: Process) -> list[str]:
    """Where its children stand that are alive and have not moved either; who waits for work is left out."""
    found = []
    for child in (child.process for child in children_of(case, process)):
        place = where(child)
        if child.ended_ns is None and place and works(child) and still_s(child) >= STILL_S:
            role = role_text(case.state, child)
            kind = role if role in _NAMED else "child process"
            found.append(f"its {kind} pid {child.pid} is at {place}")
    return found
