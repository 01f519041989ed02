"""Orders findings by cause: what explains others comes first, what is explained is a symptom."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from distwatch.state.finding import Finding

_PRECEDENCE = (
    # An earlier line explains a later one about the same culprits or their waiters.
    # What a process was started with, or calls wrongly, ends it or keeps others waiting.
    "rendezvous.env_missing",
    "rendezvous.backend_unavailable",
    "rendezvous.interface_invalid",
    "rendezvous.rank_out_of_range",
    "rendezvous.rank_duplicated",
    "rendezvous.world_size_disagrees",
    "rendezvous.endpoint_disagrees",
    "rendezvous.port_taken",
    "rendezvous.store_lost",
    "group.not_initialized",
    "group.already_initialized",
    "group.size_invalid",
    "group.not_member",
    "process.oom_killed",
    "process.killed",
    "process.exited",
    "process.stopped",
    "rendezvous.store_unreachable",
    "rendezvous.rank_died",
    "rendezvous.rank_never_started",
    "rendezvous.config_disagrees",
    "group.layout_disagrees",
    "group.counter_skew",
    "group.members_disagree",
    "collective.count_uneven",
    "collective.op_mismatch",
    "collective.dtype_mismatch",
    "collective.shape_mismatch",
    "group.call_missing",
    "load.lock_stale",
    "load.hub_unreachable",
    "load.generation_config_stalled",
    "load.stalled",
    "process.io_blocked",
    "process.gil_held",
    "process.debugger",
    "process.worker_died",
    "process.data_stall",
    "process.lock_wait",
    "process.livelock",
    "network.partition",
    "rendezvous.rank_missing",
    "p2p.unmatched",
    "p2p.cycle",
    "collective.rank_missing",
    "collective.straggler",
)
_MISMATCHES = (
    "collective.count_uneven",
    "collective.op_mismatch",
    "collective.dtype_mismatch",
    "collective.shape_mismatch",
)
_ENDS = ("process.exited", "process.killed", "rendezvous.rank_died")
PERSISTENT_FAULTS = (
    "rendezvous.rank_out_of_range",
    "rendezvous.rank_duplicated",
    "rendezvous.world_size_disagrees",
    "rendezvous.endpoint_disagrees",
    "rendezvous.port_taken",
    "rendezvous.config_disagrees",
    "group.layout_disagrees",
    "group.counter_skew",
    "group.members_disagree",
)
"""What keeps a job from going on whoever lives: nobody's death can have caused it."""
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
    told = {finding.code for finding in findings if finding.code not in _ENDS}
    excused = {rank for rank, code in excuses.items() if code in told}
    return [
        _without(finding, excused)
        if finding.code in _ENDS and excused & set(finding.culprit_ranks)
        else finding
        for finding in findings
    ]


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
    ends = [
        f for f in ranked if f.code in ("process.killed", "process.oom_killed", "process.exited")
    ]
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
    if hang is end or hang.code == "process.exited":
        return False
    if hang.code in _MISMATCHES:
        native = end.code == "process.killed"
        return native or set(end.culprit_ranks) <= set(hang.culprit_ranks) | set(hang.waiting_ranks)
    involved = set(hang.culprit_ranks) | set(hang.waiting_ranks)
    if hang.code == "rendezvous.rank_never_started":
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
    code = _PRECEDENCE.index(finding.code) if finding.code in _PRECEDENCE else len(_PRECEDENCE)
    severity = 0 if finding.blocks else 1 + _SEVERITIES.index(finding.severity)
    return severity, code, finding.culprit_ranks
