"""collective.* and p2p.* in process groups whose members are of several worlds.

As in weight sync from a trainer to engines: each world of the run is a job of its own to the other checks, and so
is such a group here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.check import Check
from distwatch.diagnosis.checks.collectives.device_queues import DeviceQueues
from distwatch.diagnosis.checks.collectives.entries import (
    CollectiveRankMissing,
    Late,
    OperationsDiffer,
    Straggler,
)
from distwatch.diagnosis.checks.collectives.iterations import CountUneven
from distwatch.diagnosis.checks.p2p import Circles, PeerMissing
from distwatch.diagnosis.checks.processes.blocked_ranks import RanksBlocked
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.world_names import named, ranks_here
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process

_CHECKS: tuple[Check, ...] = (
    RanksBlocked(),
    CountUneven(),
    OperationsDiffer(),
    PeerMissing(),
    Circles(),
    DeviceQueues(),
    CollectiveRankMissing(),
    Straggler(),
    Late(),
)
_NUMBERS = re.compile(r"\branks? (\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)")
_QUOTED = re.compile(r"(`[^`]*`)")


class JointGroups:
    """Looks at each such group as at a job of its members, and tells this world's part of it."""

    def find(self, case: Case) -> Iterable[Finding]:
        for joint in case.joint:
            for check in _CHECKS:
                for finding in check.find(joint):
                    if told := _told(case, joint, finding):
                        yield told


def _told(case: Case, joint: Case, found: Finding) -> Finding | None:
    """The finding in the numbers of this world; None where another world has the culprits."""
    culprits = _members(joint, found.culprit_ranks)
    owners = ranks_here(case, culprits or _members(joint, found.waiting_ranks)[:1])
    if not owners:
        return None
    own = len(owners) == len(culprits)
    if own and found.code.endswith(".cycle"):
        return None  # the graph of this world has it
    if own and found.code.startswith("process.") and any(map(case.graph.is_overdue, owners)):
        return None  # this world's own check finds it
    # Who waits for others elsewhere is no culprit of an absence: what it waits for is found there.
    absent = found.code == "collective.rank_missing"
    free = tuple(r for r in owners if culprits and not (absent and case.graph.is_waiting(r)))
    waiting = ranks_here(case, _members(joint, found.waiting_ranks))
    return msgspec.structs.replace(
        found,
        role=found.role if free or not culprits else "symptom",
        culprit_ranks=free,
        waiting_ranks=tuple(rank for rank in waiting if rank not in owners),
        summary=_renamed(case, joint, found.summary),
        evidence=tuple(_evidence(case, joint, one) for one in found.evidence),
    )


def _members(joint: Case, numbers: Iterable[int]) -> list[Process]:
    """As the processes that they are in their own worlds."""
    ranks = joint.job.ranks
    return [joint.state.processes[ranks[number].key] for number in numbers if number in ranks]


def _evidence(case: Case, joint: Case, one: Evidence) -> Evidence:
    text = _renamed(case, joint, one.text)
    if one.global_rank is None:
        return Evidence(one.source, text)
    (rank,) = ranks_here(case, _members(joint, [one.global_rank])) or (None,)
    return Evidence(one.source, text, rank)


def _renamed(case: Case, joint: Case, text: str) -> str:
    """The same text, in which the members have the names that they have for this world's people."""

    def name(match: re.Match[str]) -> str:
        return named(case, _members(joint, _numbers(match[1])))

    # What is quoted is the job's own source or output.
    parts = _QUOTED.split(text)
    return "".join(p if p.startswith("`") else _NUMBERS.sub(name, p) for p in parts)


def _numbers(text: str) -> Iterable[int]:
    """`0-1,3` → 0, 1, 3."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
