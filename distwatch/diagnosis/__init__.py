"""Why the job hangs: `RunState` in, findings out. Pure: no I/O, no clock of its own.

Each family of findings is a file with small check objects; `causes` orders what they find so
that the root comes first and nobody who only suffers is blamed.
"""

from __future__ import annotations

from distwatch.diagnosis.actor_ends import ActorsEnded, ActorsRestart
from distwatch.diagnosis.causes import order_by_cause
from distwatch.diagnosis.check import Case
from distwatch.diagnosis.claims import RankDuplicated, RankOutOfRange
from distwatch.diagnosis.cohorts import cohorts_of
from distwatch.diagnosis.collectives import (
    CollectiveRankMissing,
    Late,
    OperationsDiffer,
    Straggler,
)
from distwatch.diagnosis.debugging import Debugged
from distwatch.diagnosis.endpoints import EndpointDisagrees, small_worlds
from distwatch.diagnosis.environments import BackendUnavailable, EnvMissing
from distwatch.diagnosis.framework_places import with_places
from distwatch.diagnosis.gradients import GradientsSkipped
from distwatch.diagnosis.group_calls import GroupCallsDiffer
from distwatch.diagnosis.group_misuse import GroupMisused
from distwatch.diagnosis.groups import GroupCallMissing
from distwatch.diagnosis.held_up import HeldUp
from distwatch.diagnosis.interfaces import InterfaceInvalid
from distwatch.diagnosis.iterations import CountUneven
from distwatch.diagnosis.layouts import FrameworksDiffer, GroupsOverlap, LayoutsDiffer
from distwatch.diagnosis.loading import GenerationConfigLost, LoadsStalled
from distwatch.diagnosis.monitored_barriers import MonitoredBarrierMissing
from distwatch.diagnosis.network import NobodyMissing, Partition
from distwatch.diagnosis.outside import MissingByStack
from distwatch.diagnosis.p2p import Circles, PeerMissing
from distwatch.diagnosis.placed_models import DeviceMapsConflict, MemoryExceeded, ModelsPlaced
from distwatch.diagnosis.plans import PlansDisagree
from distwatch.diagnosis.processes import RankEnded, RankFrozen, RankStopped
from distwatch.diagnosis.raised import with_raised
from distwatch.diagnosis.ray_shares import share_rows
from distwatch.diagnosis.ray_words import with_ray
from distwatch.diagnosis.rendezvous import RanksNotArrived
from distwatch.diagnosis.side_worlds import SideWorldsIncomplete
from distwatch.diagnosis.sight import with_sight
from distwatch.diagnosis.store import PortTaken, StoreLost
from distwatch.diagnosis.timeouts import TimeoutsDisagree
from distwatch.diagnosis.unplaced import ActorsUnobserved, ActorsUnplaced
from distwatch.diagnosis.unreachable import StoreUnreachable
from distwatch.state.finding import Finding
from distwatch.state.model import RunState

RAY_CHECKS = (ActorsUnplaced(), ActorsUnobserved(), ActorsEnded(), ActorsRestart())
"""What they find needs no process to have been seen."""
CHECKS = (
    EnvMissing(),
    BackendUnavailable(),
    InterfaceInvalid(),
    RankOutOfRange(),
    RankDuplicated(),
    PlansDisagree(),
    EndpointDisagrees(),
    PortTaken(),
    StoreLost(),
    StoreUnreachable(),
    GroupMisused(),
    RankEnded(),
    RankStopped(),
    RanksNotArrived(),
    *RAY_CHECKS,
    SideWorldsIncomplete(),
    LayoutsDiffer(),
    GroupsOverlap(),
    FrameworksDiffer(),
    GroupCallsDiffer(),
    GroupCallMissing(),
    LoadsStalled(),
    GenerationConfigLost(),
    ModelsPlaced(),
    DeviceMapsConflict(),
    MemoryExceeded(),
    RankFrozen(),
    Debugged(),
    HeldUp(),
    Partition(),
    CountUneven(),
    OperationsDiffer(),
    PeerMissing(),
    Circles(),
    CollectiveRankMissing(),
    MonitoredBarrierMissing(),
    Straggler(),
    Late(),
    NobodyMissing(),
    TimeoutsDisagree(),
    GradientsSkipped(),
    MissingByStack(),
)


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
    return [Case(state, cohort) for cohort in cohorts_of(state) or [()]]


def _judge(case: Case) -> list[Finding]:
    found = [finding for check in CHECKS for finding in check.find(case)]
    found = with_ray(case, with_raised(case, found))
    ordered = order_by_cause(found, case.excuses(found))
    return with_sight(case, with_places(case.job, ordered))
