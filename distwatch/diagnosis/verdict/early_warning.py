"""What the verdict will be if nothing moves, before any deadline has passed."""

from __future__ import annotations

from collections.abc import Sequence

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.haste import hurried
from distwatch.diagnosis.facts.suspicion import SUSPICIOUS_AFTER_S, suspicion_of
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.finding import Finding


def early_suspicion(cases: Sequence[Case]) -> Finding | None:
    """The first root that the checks would find if every deadline were SUSPICIOUS_AFTER_S.

    None where everything moves, or where nothing shows why something does not. It is not a finding
    of the run: a slow load or a long compilation looks the same while it lasts.

    Args:
        cases: the worlds of the run.
    """
    if not any(suspicion_of(case.job, case.groups) for case in cases):
        return None
    findings = diagnose(hurried(cases[0].state, SUSPICIOUS_AFTER_S))
    return next((f for f in findings if f.role == "root" and f.severity == "hang"), None)
