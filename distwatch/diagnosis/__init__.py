"""Why the job hangs: `RunState` in, findings out. Pure: no I/O, no clock of its own.

Each family of findings is a file with small check objects; `causes` orders what they find so
that the root comes first and nobody who only suffers is blamed.
"""

from __future__ import annotations

from distwatch.diagnosis.causes import order_by_cause
from distwatch.diagnosis.check import Case
from distwatch.diagnosis.collectives import CollectiveRankMissing, OperationsDiffer, Straggler
from distwatch.diagnosis.groups import GroupCallMissing
from distwatch.diagnosis.loading import LoadStalled
from distwatch.diagnosis.outside import MissingByStack
from distwatch.diagnosis.processes import RankEnded, RankFrozen, RankStopped
from distwatch.diagnosis.rendezvous import RanksNotArrived
from distwatch.state.finding import Finding
from distwatch.state.model import RunState

CHECKS = (
    RankEnded(),
    RankStopped(),
    RanksNotArrived(),
    GroupCallMissing(),
    LoadStalled(),
    RankFrozen(),
    OperationsDiffer(),
    CollectiveRankMissing(),
    Straggler(),
    MissingByStack(),
)


def diagnose(state: RunState) -> list[Finding]:
    """All findings of a run, the root cause first, its symptoms after it; empty when sound."""
    case = Case(state)
    return order_by_cause([finding for check in CHECKS for finding in check.find(case)])
