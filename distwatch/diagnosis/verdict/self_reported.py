"""What processes found out themselves and raised to their callers."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.initializations import holds_world, newest_init
from distwatch.diagnosis.verdict.alike import merge_alike
from distwatch.state.codes import code_of, family_of
from distwatch.state.events import FindingRaised
from distwatch.state.finding import Finding
from distwatch.state.model import Process
from distwatch.state.steps import INIT, LOAD, kind_of

_LISTED = 8


def with_raised(case: Case, found: list[Finding]) -> list[Finding]:
    """The findings of the checks, followed by what processes raised and no check reports."""
    merged: dict[tuple[str, tuple[int, ...]], Finding] = {}
    for process in case.job.processes:
        for raised in process.raised:
            if not _is_over(process, raised):
                key = raised.finding.code, raised.finding.culprit_ranks
                merged[key] = _merge(merged.get(key), raised.finding)
    return merge_alike(
        found + [finding for finding in merged.values() if not _is_said(finding, found)]
    )


def _is_over(process: Process, raised: FindingRaised) -> bool:
    """Whether it is about an initialization that succeeded later, or a load that a living process gave up."""
    if family_of(raised.finding.code).name == LOAD.name and raised.finding.blocks:
        return process.ended_ns is None and not any(
            kind_of(step.name) is LOAD for step in process.open_steps()
        )
    step = newest_init(process)
    made_good = holds_world(process) and (step is None or not step.error)
    return made_good and kind_of(raised.step) is INIT


def _merge(known: Finding | None, finding: Finding) -> Finding:
    if known is None:
        return finding
    # The text must not depend on the order in which journals are read.
    best, other = sorted((known, finding), key=lambda f: (-f.confidence, f.summary))
    evidence = list(best.evidence)
    evidence += [one for one in other.evidence if one not in evidence]
    waiting = {*best.waiting_ranks, *other.waiting_ranks} - set(best.culprit_ranks)
    return msgspec.structs.replace(
        best, waiting_ranks=tuple(sorted(waiting)), evidence=tuple(evidence[:_LISTED])
    )


def _is_said(finding: Finding, found: Iterable[Finding]) -> bool:
    """Whether a check reports it, or knows better: a check sees all ranks, a process only itself."""
    culprits = set(finding.culprit_ranks)
    for ours in found:
        if ours.code == finding.code and culprits <= set(ours.culprit_ranks):
            return True
        knows = ours.blocks and ours.role == "root" and family_of(ours.code).forms_world
        if knows and code_of(finding.code).partial_view:
            return True
    return False
