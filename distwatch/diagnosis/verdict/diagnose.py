"""All checks on all worlds of a run, and their findings as one verdict."""

from __future__ import annotations

from distwatch.diagnosis.checks import CHECKS, RAY_CHECKS
from distwatch.diagnosis.checks.rendezvous.endpoints import small_worlds
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.framework_places import with_places
from distwatch.diagnosis.facts.ray_shares import share_rows
from distwatch.diagnosis.facts.worlds import worlds_of
from distwatch.diagnosis.verdict.causes import order_by_cause
from distwatch.diagnosis.verdict.ray_causes import with_ray
from distwatch.diagnosis.verdict.self_reported import with_raised
from distwatch.diagnosis.verdict.unlinked_hosts import discount_unlinked
from distwatch.state.finding import Finding
from distwatch.state.model import RunState


def diagnose(run: RunState | list[Case]) -> list[Finding]:
    """All findings of a run, the root cause first, its symptoms after it; empty when sound.

    Worlds that stand side by side in one run are judged each by itself.

    Args:
        run: its state, or its worlds, where they are at hand.
    """
    cases = run if isinstance(run, list) else cases_of(run)
    if not cases[0].job.processes:
        return order_by_cause([f for check in RAY_CHECKS for f in check.find(cases[0])])
    share_rows(cases)
    judged = [finding for case in cases for finding in _judge(case)]
    judged += small_worlds(cases)
    # The order of causes is that of each world; between them it is the roots that come first.
    return sorted(judged, key=lambda finding: (finding.role == "symptom", not finding.blocks))


def cases_of(state: RunState) -> list[Case]:
    """The worlds of a run, the largest first; an empty one where there is none yet."""
    return [Case(state, world) for world in worlds_of(state) or [()]]


def _judge(case: Case) -> list[Finding]:
    found = [finding for check in CHECKS for finding in check.find(case)]
    found = with_ray(case, with_raised(case, found))
    ordered = order_by_cause(found, case.excuses(found))
    return discount_unlinked(case, with_places(case.job, ordered))
