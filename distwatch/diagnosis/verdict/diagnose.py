"""All checks on all worlds of a run, and their findings as one verdict."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from distwatch.diagnosis.checks import CHECKS, RANKLESS_CHECKS
from distwatch.diagnosis.checks.rendezvous.endpoints import small_worlds
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.collective_wait import KILLED_WHILE_WAITING_S
from distwatch.diagnosis.facts.deaths import ending_signal
from distwatch.diagnosis.facts.framework_places import with_places
from distwatch.diagnosis.facts.haste import hurried
from distwatch.diagnosis.facts.outside_view import with_outside_view
from distwatch.diagnosis.facts.ray_shares import share_rows
from distwatch.diagnosis.facts.signals import REQUESTS
from distwatch.diagnosis.facts.teardown import case_before_loss, case_before_teardown
from distwatch.diagnosis.facts.worlds import worlds_of
from distwatch.diagnosis.verdict.causes import explains_end, only_ends, order_by_cause, with_end
from distwatch.diagnosis.verdict.ray_causes import with_ray
from distwatch.diagnosis.verdict.self_reported import with_raised
from distwatch.diagnosis.verdict.slowness import tell_slow_from_stuck
from distwatch.diagnosis.verdict.unlinked_hosts import discount_unlinked
from distwatch.diagnosis.why.explain import with_place_in_training, with_why
from distwatch.state.finding import Finding
from distwatch.state.model import RunState


def diagnose(run: RunState | list[Case]) -> list[Finding]:
    """All findings of a run, the root cause first, its symptoms after it; empty when sound.

    Separate worlds in one run are judged separately.

    Args:
        run: its state, or its worlds, where the caller has them.
    """
    cases = run if isinstance(run, list) else cases_of(run)
    if not cases[0].job.processes:
        return order_by_cause([f for check in RANKLESS_CHECKS for f in check.find(cases[0])])
    share_rows(cases)
    judged = _judge_worlds(cases)
    judged += small_worlds(cases)
    # Findings are ordered by cause within each world; between worlds, roots come first.
    return sorted(judged, key=lambda finding: (finding.role == "symptom", not finding.blocks))


def rechecks(case: Case) -> Iterator[bool]:
    """Runs one check after the other again, on a case whose state has moved on: whether each finds anything.

    For a case in which all checks found nothing and since then only routine events came. What several
    checks need is not derived again. So what is found is no verdict: it is a reason to judge.
    """
    for check in CHECKS:
        yield next(iter(check.find(case)), None) is not None


def cases_of(state: RunState) -> list[Case]:
    """The worlds of a run, the largest first; one empty world where there is none yet."""
    state = with_outside_view(state)
    return [Case(state, world) for world in worlds_of(state) or [()]]


def _judge_worlds(cases: list[Case]) -> list[Finding]:
    blocked_ranks: list[list[Finding]] = []
    cleared: list[list[Finding]] = []
    for case in cases:
        findings, only_cleared = _judge(case)
        (cleared if only_cleared else blocked_ranks).append(findings)
    # One world hung and then all were cleared away: the end of the healthy ones is not a second fault.
    if any(findings and findings[0].blocks for findings in blocked_ranks):
        cleared = [with_end([], findings) for findings in cleared]
    return [finding for findings in (*blocked_ranks, *cleared) for finding in findings]


def _judge(case: Case) -> tuple[list[Finding], bool]:
    """The verdict on one world, and whether it says only that the world was cleared away."""
    ordered, only_cleared = _ordered(case), False
    if torn_down := case_before_teardown(case):
        about, stood = _before_teardown(torn_down)
        only_cleared = not stood and only_ends(ordered)
    else:
        about, stood = _before_loss(case, ordered)
    if stood:
        ordered, case = with_end(stood, ordered, is_over=not _living(case)), about
    ordered = _with_links(case, ordered)
    told = with_place_in_training(case, with_why(case, with_places(case.job, ordered)))
    return discount_unlinked(case, told), only_cleared


def _with_links(case: Case, found: list[Finding]) -> list[Finding]:
    """The same findings; the first one that stops ranks also says what their connections show."""
    if not found or not found[0].blocks:
        return found
    first = found[0]
    told = tuple(case.job.links.evidence((*first.culprit_ranks, *first.waiting_ranks)))
    return [msgspec.structs.replace(first, evidence=(*first.evidence, *told)), *found[1:]]


def _before_teardown(case: Case) -> tuple[Case, list[Finding]]:
    """What stood before a whole world was cleared away, with the case that shows it; empty where nothing did.

    Args:
        case: as it was just before.
    """
    ordered = _ordered(case, is_over=True)
    about, stood = _before_loss(case, ordered)
    if stood:
        return about, stood
    if explains_end(ordered):
        return case, ordered
    # No rank could wait out a deadline of minutes any more.
    in_haste = Case.of(hurried(case.state, KILLED_WHILE_WAITING_S), case)
    ordered = _ordered(in_haste, is_over=True)
    return (in_haste, ordered) if explains_end(ordered) else (case, [])


def _before_loss(case: Case, ordered: list[Finding]) -> tuple[Case, list[Finding]]:
    """The same of ranks that were killed: what stood before the first of them was, and explains their ends."""
    before = case_before_loss(case) if ordered else None
    stood = _ordered(before, is_over=True) if before else []
    if before and explains_end(stood) and (only_ends(ordered) or _still_stands(case, stood)):
        return before, stood
    return case, []


def _still_stands(case: Case, stood: list[Finding]) -> bool:
    """Whether only ranks were killed that hung or were asked to end, or all but those that the hang is due to.

    A rank that is in the kernel does not end before its disk answers, whoever kills the job.
    """
    roots = [finding for finding in stood if finding.role == "root" and finding.blocks]
    hung = {rank for root in roots for rank in (*root.culprit_ranks, *root.waiting_ranks)}
    if all(
        rank in hung or ending_signal(process) in REQUESTS
        for rank, process in case.deaths.own.items()
    ):
        return True
    living = _living(case)
    return bool(living) and living <= set(stood[0].culprit_ranks)


def _living(case: Case) -> set[int]:
    return {rank for rank, process in case.job.ranks.items() if process.ended_ns is None}


def _ordered(case: Case, *, is_over: bool = False) -> list[Finding]:
    found = [finding for check in CHECKS for finding in check.find(case)]
    found = with_ray(case, with_raised(case, found))
    found = tell_slow_from_stuck(case, found, is_over=is_over)
    return order_by_cause(found, case.excuses(found))
