"""Orders findings by cause: a finding that explains others comes first, the others are symptoms."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from distwatch.state.codes import code_of, precedence_of
from distwatch.state.finding import Finding

UNCERTAIN = 0.5
_SEVERITIES = ("crash", "hang", "warning", "info")


def order_by_cause(
    findings: list[Finding], excuses: Mapping[int, str] | None = None
) -> list[Finding]:
    """The same findings with their roles: roots first, in the order of causes.

    Args:
        excuses: ranks whose end is not a second fault, with the code of the finding that explains it:
            only a failed call ended them, or they were cleared away.
    """
    ranked = sorted(_excuse(findings, excuses or {}), key=_precedence)
    roots = _Roots()
    symptoms: list[Finding] = []
    for finding in _mismatch_before_its_aborts(ranked):
        if finding.role == "symptom" or roots.explain(finding):
            symptoms.append(_as_symptom(finding, roots))
        else:
            roots.add(finding)
    return roots.findings + symptoms


class _Roots:
    """The findings that no other explains, so far: in a large job as many as it has groups."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.blamed: set[int] = set()
        self.waiting: set[int] = set()
        self._blocked: set[int] = set()
        """The ranks that are at fault in one that blocks, or wait for it."""
        self._blocks = False

    def add(self, root: Finding) -> None:
        """Adds the next one."""
        self.findings.append(root)
        self.blamed.update(root.culprit_ranks)
        self.waiting.update(root.waiting_ranks)
        if root.blocks:
            self._blocks = True
            self._blocked.update(root.culprit_ranks, root.waiting_ranks)

    def explain(self, finding: Finding) -> bool:
        """Whether each rank that it blames is at fault, or waits, for a reason of its own."""
        if code_of(finding.code).is_setup and not finding.blocks:
            return False
        return self._blocks and self._blocked.issuperset(finding.culprit_ranks)


def only_ends(findings: list[Finding]) -> bool:
    """Whether only ends of processes are at the root of these findings."""
    roots = [finding for finding in findings if finding.role == "root"]
    return all(_is_end(finding) or not finding.blocks for finding in roots)


def explains_end(stood: list[Finding]) -> bool:
    """Whether what stood before the end of a world is why it was ended.

    An end whose cause was not seen is no such reason: those that have been seen since may be its cause.
    """
    if not stood or not stood[0].blocks:
        return False
    return bool(stood[0].culprit_ranks) or not _is_end(stood[0])


def with_end(stood: list[Finding], ends: list[Finding], *, is_over: bool = True) -> list[Finding]:
    """What blocked a world until it was ended, followed by the ends and what went with them, which explain nothing.

    Args:
        stood: the verdict on that world just before its end.
        ends: the verdict on it now.
        is_over: it blocks no more.
    """
    told = {(finding.code, finding.culprit_ranks) for finding in stood}
    if is_over:
        stood = [*map(_put_in_the_past, stood[:1]), *stood[1:]]
    return stood + [
        _as_aftermath(end)
        for end in ends
        if (_is_end(end) or end.severity == "crash") and (end.code, end.culprit_ranks) not in told
    ]


def _put_in_the_past(root: Finding) -> Finding:
    if _is_end(root):
        return root
    return msgspec.structs.replace(root, summary=f"just before the job was ended: {root.summary}")


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


def _mismatch_before_its_aborts(ranked: list[Finding]) -> list[Finding]:
    """A mismatch that aborts its ranks explains their deaths, not the other way round."""
    mismatches = [f for f in ranked if f.severity == "hang" and code_of(f.code).mismatch]
    aborts = [f for f in ranked if _is_end(f) and any(_aborts(m, f) for m in mismatches)]
    return [f for f in ranked if f not in aborts] + [_as_aftermath(end) for end in aborts]


def _as_symptom(finding: Finding, roots: _Roots) -> Finding:
    """A symptom does not blame a rank that, according to its root, only waits."""
    culprits = set(finding.culprit_ranks)
    only_wait = culprits & roots.waiting - roots.blamed
    if not roots.findings or not culprits - only_wait <= roots.blamed:
        return msgspec.structs.replace(finding, role="symptom")
    return msgspec.structs.replace(
        finding,
        role="symptom",
        culprit_ranks=tuple(sorted(culprits - only_wait)),
        waiting_ranks=tuple(sorted({*finding.waiting_ranks, *only_wait})),
    )


def _as_aftermath(end: Finding) -> Finding:
    """A rank that was cleared away with a hanging job is not to blame."""
    ended = tuple(sorted({*end.culprit_ranks, *end.waiting_ranks}))
    return msgspec.structs.replace(end, role="symptom", culprit_ranks=(), waiting_ranks=ended)


def _aborts(mismatch: Finding, end: Finding) -> bool:
    involved = set(mismatch.culprit_ranks) | set(mismatch.waiting_ranks)
    return code_of(end.code).by_signal or set(end.culprit_ranks) <= involved


def _precedence(finding: Finding) -> tuple[int, bool, int, tuple[int, ...], str]:
    severity = 0 if finding.blocks else 1 + _SEVERITIES.index(finding.severity)
    # Whoever names nobody, and doubts that, explains only what nothing else does.
    doubts = not finding.culprit_ranks and finding.confidence < UNCERTAIN
    return severity, doubts, precedence_of(finding.code), finding.culprit_ranks, finding.severity
