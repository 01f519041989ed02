"""Orders findings by cause: what explains others comes first, what is explained is a symptom."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from distwatch.state.codes import code_of, precedence_of
from distwatch.state.finding import Finding

_SEVERITIES = ("crash", "hang", "warning", "info")


def order_by_cause(
    findings: list[Finding], excuses: Mapping[int, str] | None = None
) -> list[Finding]:
    """The same findings with their roles: roots first, in the order of causes.

    Args:
        excuses: ranks whose end is no second fault, with the code of the finding that says why:
            they ended by nothing but a call that failed, or were cleared away.
    """
    ranked = sorted(_excuse(findings, excuses or {}), key=_precedence)
    roots: list[Finding] = []
    symptoms: list[Finding] = []
    for finding in _hangs_before_their_end(ranked):
        explained = finding.role == "symptom" or any(_explains(root, finding) for root in roots)
        if explained:
            symptoms.append(_as_symptom(finding, roots))
        else:
            roots.append(finding)
    return roots + symptoms


def _excuse(findings: list[Finding], excuses: Mapping[int, str]) -> list[Finding]:
    told = {finding.code for finding in findings if not _is_end(finding)}
    excused = {rank for rank, code in excuses.items() if code in told}
    return [
        _without(finding, excused)
        if _is_end(finding) and excused & set(finding.culprit_ranks)
        else finding
        for finding in findings
    ]


def _is_end(finding: Finding) -> bool:
    return code_of(finding.code).ends_rank


def _without(end: Finding, excused: set[int]) -> Finding:
    if set(end.culprit_ranks) <= excused:
        return _as_aftermath(end)
    left = tuple(rank for rank in end.culprit_ranks if rank not in excused)
    return msgspec.structs.replace(end, culprit_ranks=left)


def _hangs_before_their_end(ranked: list[Finding]) -> list[Finding]:
    """A hang that stood when the whole job was ended explains its end, not the other way round.

    A mismatch that aborts its ranks explains their deaths, too.
    """
    hangs = [f for f in ranked if f.severity == "hang"]
    ends = [f for f in ranked if _is_end(f)]
    late = [end for end in ends if any(_outlives(hang, end) for hang in hangs)]
    return [f for f in ranked if f not in late] + [_as_aftermath(end) for end in late]


def _as_symptom(finding: Finding, roots: list[Finding]) -> Finding:
    """Whoever only waits by a root's account is blamed by no symptom of it either."""
    blamed = {rank for root in roots for rank in root.culprit_ranks}
    waiting = {rank for root in roots for rank in root.waiting_ranks}
    culprits = set(finding.culprit_ranks)
    if not roots or not culprits or culprits & blamed or not culprits <= waiting:
        return msgspec.structs.replace(finding, role="symptom")
    affected = tuple(sorted({*finding.waiting_ranks, *culprits}))
    return msgspec.structs.replace(
        finding, role="symptom", culprit_ranks=(), waiting_ranks=affected
    )


def _as_aftermath(end: Finding) -> Finding:
    """Who was cleared away with a hanging job is to blame for nothing."""
    ended = tuple(sorted({*end.culprit_ranks, *end.waiting_ranks}))
    return msgspec.structs.replace(end, role="symptom", culprit_ranks=(), waiting_ranks=ended)


def _outlives(hang: Finding, end: Finding) -> bool:
    code = code_of(hang.code)
    if hang is end or code.ends_rank:
        return False
    if code.mismatch:
        native = end.code == "process.killed"
        return native or set(end.culprit_ranks) <= set(hang.culprit_ranks) | set(hang.waiting_ranks)
    involved = set(hang.culprit_ranks) | set(hang.waiting_ranks)
    if code.absent:
        involved = set(hang.waiting_ranks)  # there is nobody else who could end
    # Both the culprit and those who waited for it were ended: somebody cleared the job away.
    return bool(hang.culprit_ranks and involved) and involved <= set(end.culprit_ranks)


def _explains(root: Finding, finding: Finding) -> bool:
    if not root.blocks:
        return False
    if not finding.culprit_ranks:
        return True
    culprits = set(finding.culprit_ranks)
    return culprits <= set(root.culprit_ranks) or culprits <= set(root.waiting_ranks)


def _precedence(finding: Finding) -> tuple[int, int, tuple[int, ...]]:
    severity = 0 if finding.blocks else 1 + _SEVERITIES.index(finding.severity)
    return severity, precedence_of(finding.code), finding.culprit_ranks
