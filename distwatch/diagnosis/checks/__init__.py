"""The checks: one folder or file for each family, one class for each mechanism."""

from __future__ import annotations

from distwatch.diagnosis.checks.check import Check
from distwatch.diagnosis.checks.collectives.aborts import LibraryAborts
from distwatch.diagnosis.checks.collectives.callers import ConcurrentThreads, SitesDiffer
from distwatch.diagnosis.checks.collectives.device_queues import DeviceQueues
from distwatch.diagnosis.checks.collectives.entries import (
    CollectiveRankMissing,
    Late,
    OperationsDiffer,
    Straggler,
)
from distwatch.diagnosis.checks.collectives.extra_groups import JointGroups
from distwatch.diagnosis.checks.collectives.gradients import GradientsSkipped
from distwatch.diagnosis.checks.collectives.iterations import CountUneven
from distwatch.diagnosis.checks.collectives.monitored_barriers import MonitoredBarrierMissing
from distwatch.diagnosis.checks.collectives.splits import SplitsDiffer
from distwatch.diagnosis.checks.collectives.timeouts import TimeoutsDisagree
from distwatch.diagnosis.checks.collectives.unnumbered_calls import UnnumberedCalls
from distwatch.diagnosis.checks.devices import DeviceFailed, DeviceSlowed
from distwatch.diagnosis.checks.groups.calls import GroupCallsDiffer
from distwatch.diagnosis.checks.groups.creation import GroupCallMissing
from distwatch.diagnosis.checks.groups.destroyed import GroupDestroyed
from distwatch.diagnosis.checks.groups.layouts import FrameworksDiffer, GroupsOverlap, LayoutsDiffer
from distwatch.diagnosis.checks.groups.local_calls import LocalCounterSkew
from distwatch.diagnosis.checks.groups.misuse import MISUSED, CallsOfOthers
from distwatch.diagnosis.checks.loading.placed_models import (
    DeviceMapsConflict,
    MemoryExceeded,
    ModelsPlaced,
)
from distwatch.diagnosis.checks.loading.stalls import GenerationConfigLost, LoadsStalled
from distwatch.diagnosis.checks.network import LinkFailed, NobodyMissing, Partition
from distwatch.diagnosis.checks.p2p import Circles, PeerMissing
from distwatch.diagnosis.checks.processes.actor_ends import ActorsEnded, ActorsRestart
from distwatch.diagnosis.checks.processes.blocked_ranks import RanksBlocked
from distwatch.diagnosis.checks.processes.debugging import Debugged
from distwatch.diagnosis.checks.processes.ends import RankEnded, RankFrozen, RankStopped
from distwatch.diagnosis.checks.processes.limits import LimitsReached
from distwatch.diagnosis.checks.processes.lone_programs import LoneProgramStuck
from distwatch.diagnosis.checks.processes.stalled_exits import ExitStalled
from distwatch.diagnosis.checks.processes.unseen_exceptions import ExceptionsHeld, ThreadsDied
from distwatch.diagnosis.checks.rendezvous.arrival import RanksNotArrived
from distwatch.diagnosis.checks.rendezvous.claims import RankDuplicated, RankOutOfRange
from distwatch.diagnosis.checks.rendezvous.endpoints import EndpointDisagrees
from distwatch.diagnosis.checks.rendezvous.environments import BACKEND_UNAVAILABLE, ENV_MISSING
from distwatch.diagnosis.checks.rendezvous.extra_process_groups import ExtraGroupsIncomplete
from distwatch.diagnosis.checks.rendezvous.interfaces import InterfaceInvalid
from distwatch.diagnosis.checks.rendezvous.nodes import NodeMissing
from distwatch.diagnosis.checks.rendezvous.plans import PlansDisagree
from distwatch.diagnosis.checks.rendezvous.store import PortTaken, StoreLost
from distwatch.diagnosis.checks.rendezvous.unplaced import ActorsUnobserved, ActorsUnplaced
from distwatch.diagnosis.checks.rendezvous.unreachable import StoreUnreachable
from distwatch.diagnosis.checks.uninstrumented import CallsByStack

RAY_CHECKS: tuple[Check, ...] = (
    ActorsUnplaced(),
    ActorsUnobserved(),
    ActorsEnded(),
    ActorsRestart(),
)
"""Their findings do not need a process that was seen."""
RANKLESS_CHECKS: tuple[Check, ...] = (NodeMissing(), *RAY_CHECKS)
"""These can be judged where no rank exists yet."""
CHECKS: tuple[Check, ...] = (
    ENV_MISSING,
    BACKEND_UNAVAILABLE,
    InterfaceInvalid(),
    RankOutOfRange(),
    RankDuplicated(),
    PlansDisagree(),
    EndpointDisagrees(),
    PortTaken(),
    StoreLost(),
    StoreUnreachable(),
    MISUSED,
    CallsOfOthers(),
    GroupDestroyed(),
    DeviceFailed(),
    RankEnded(),
    RankStopped(),
    LimitsReached(),
    ExceptionsHeld(),
    ThreadsDied(),
    ExitStalled(),
    RanksNotArrived(),
    *RANKLESS_CHECKS,
    ExtraGroupsIncomplete(),
    LayoutsDiffer(),
    GroupsOverlap(),
    FrameworksDiffer(),
    GroupCallsDiffer(),
    LocalCounterSkew(),
    GroupCallMissing(),
    LoadsStalled(),
    GenerationConfigLost(),
    ModelsPlaced(),
    DeviceMapsConflict(),
    MemoryExceeded(),
    RankFrozen(),
    Debugged(),
    RanksBlocked(),
    LoneProgramStuck(),
    LinkFailed(),
    Partition(),
    ConcurrentThreads(),
    CountUneven(),
    OperationsDiffer(),
    SplitsDiffer(),
    LibraryAborts(),
    PeerMissing(),
    Circles(),
    DeviceQueues(),
    CollectiveRankMissing(),
    UnnumberedCalls(),
    JointGroups(),
    MonitoredBarrierMissing(),
    Straggler(),
    Late(),
    DeviceSlowed(),
    NobodyMissing(),
    TimeoutsDisagree(),
    SitesDiffer(),
    GradientsSkipped(),
    CallsByStack(),
)
