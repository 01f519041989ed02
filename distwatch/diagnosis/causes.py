"""Orders findings by cause: what explains others comes first, what is explained is a symptom."""

from __future__ import annotations

import msgspec

from distwatch.state.finding import Finding

_PRECEDENCE = (
    # An earlier line explains a later one about the same culprits or their waiters.
    "process.oom_killed",
    "process.killed",
    "process.exited",
    "process.stopped",
    "rendezvous.rank_died",
    "rendezvous.rank_never_started",
    "collective.op_mismatch",
    "collective.dtype_mismatch",
    "collective.shape_mismatch",
    "group.call_missing",
    "load.stalled",
    "process.io_blocked",
    "process.gil_held",
    "rendezvous.rank_missing",
    "collective.rank_missing",
    "collective.straggler",
)
_MISMATCHES = ("collective.op_mismatch", "collective.dtype_mismatch", "collective.shape_mismatch")
_SEVERITIES = ("crash", "hang", "warning", "info")


def order_by_cause(findings: list[Finding]) -> list[Finding]:
    """The same findings with their roles: roots first, in the order of causes."""
    ranked = sorted(findings, key=_precedence)
    roots: list[Finding] = []
    symptoms: list[Finding] = []
    for finding in _hangs_before_their_end(ranked):
        explained = finding.role == "symptom" or any(_explains(root, finding) for root in roots)
        if explained:
            symptoms.append(msgspec.structs.replace(finding, role="symptom"))
        else:
            roots.append(finding)
    return roots + symptoms


def _hangs_before_their_end(ranked: list[Finding]) -> list[Finding]:
    """A hang that stood when the whole job was ended explains its end, not the other way round.

    A mismatch that aborts its ranks explains their deaths, too.
    """
    hangs = [f for f in ranked if f.severity == "hang"]
    ends = [
        f for f in ranked if f.code in ("process.killed", "process.oom_killed", "process.exited")
    ]
    late = [end for end in ends if any(_outlives(hang, end) for hang in hangs)]
    return [f for f in ranked if f not in late] + [_as_aftermath(end) for end in late]


def _as_aftermath(end: Finding) -> Finding:
    """Who was cleared away with a hanging job is to blame for nothing."""
    ended = tuple(sorted({*end.culprit_ranks, *end.waiting_ranks}))
    return msgspec.structs.replace(end, role="symptom", culprit_ranks=(), waiting_ranks=ended)


def _outlives(hang: Finding, end: Finding) -> bool:
    if hang is end or hang.code == "process.exited":
        return False
    if hang.code in _MISMATCHES:
        native = end.code == "process.killed"
        return native or set(end.culprit_ranks) <= set(hang.culprit_ranks) | set(hang.waiting_ranks)
    involved = set(hang.culprit_ranks) | set(hang.waiting_ranks)
    # Both the culprit and those who waited for it were ended: somebody cleared the job away.
    return bool(hang.culprit_ranks) and involved <= set(end.culprit_ranks)


def _explains(root: Finding, finding: Finding) -> bool:
    if not root.blocks:
        return False
    if not finding.culprit_ranks:
        return True
    culprits = set(finding.culprit_ranks)
    return culprits <= set(root.culprit_ranks) or culprits <= set(root.waiting_ranks)


def _precedence(finding: Finding) -> tuple[int, int, tuple[int, ...]]:
    code = _PRECEDENCE.index(finding.code) if finding.code in _PRECEDENCE else len(_PRECEDENCE)
    severity = 0 if finding.blocks else 1 + _SEVERITIES.index(finding.severity)
    return severity, code, finding.culprit_ranks
