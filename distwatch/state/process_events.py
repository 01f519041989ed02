"""What a process tells about itself, and the parts of it: written by the agent inside it."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.event import Event
from distwatch.state.finding import Finding
from distwatch.state.identity import Identity
from distwatch.state.loads import LoadArguments, Placement
from distwatch.state.rank_spans import Spans, unpack_ranks
from distwatch.state.recorder_entries import Collective, PackedEntries, unpack_entries


class MemberSpans(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Part of what lists `members`: written as spans where those are shorter, read as the list."""

    spans: Spans = ()
    """Only on the wire: `members`, packed."""

    def __post_init__(self) -> None:
        if self.spans:
            msgspec.structs.force_setattr(self, "members", unpack_ranks(self.spans))
            msgspec.structs.force_setattr(self, "spans", ())


class Site(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A place in the user's source."""

    file: str
    line: int
    function: str = "?"

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


class ProcessStarted(Event, frozen=True, kw_only=True):
    """The first record of every agent's journal."""

    host: str
    pid: int
    start_ticks: int
    ppid: int
    role: Literal["rank", "launcher", "other"]
    identity: Identity
    command: tuple[str, ...] = ()
    python: str = ""
    cwd: str = ""
    distwatch_version: str = ""
    deadlines: dict[str, float] = {}


class IdentityConfirmed(Event, frozen=True, kw_only=True):
    """What torch says once the default process group exists."""

    global_rank: int
    world_size: int
    local_rank: int | None = None


class WorkerPlaced(Event, frozen=True, kw_only=True):
    """Who this process is to the cluster that runs it, as the cluster itself names things."""

    cluster: Literal["ray"] = "ray"
    job_id: str = ""
    node_id: str = ""
    worker_id: str = ""
    actor_id: str = ""
    actor_name: str = ""
    """Empty: the actor was given none."""
    actor_class: str = ""


class InitPlanned(Event, frozen=True, kw_only=True):
    """What a rank is about to initialize with, as its call and its environment say.

    Ranks are compared by it: a world forms only where they agree.
    """

    number: int = 1
    """Which initialization of this process it is, from 1: a closed world can be formed again."""
    by: Literal["torch", "distwatch"] = "torch"
    """Who performs it: the user's own call, or `distwatch.initialize`."""
    global_rank: int | None = None
    world_size: int | None = None
    method: str = "env"
    """env, tcp, file or store: where the rank gets its store from."""
    endpoint: str = ""
    """`host:port`, or the file of a FileStore; empty where it is not known."""
    hosts_store: bool = False
    """Whether this process is the one that listens at the endpoint."""
    backend: str = ""
    device: str = ""
    """The accelerator that this rank will work on, by its UUID; empty where there is none."""
    timeout_s: float | None = None
    framework: str = ""
    sizes: dict[str, int] = {}
    """Parallel sizes by axis; only those that were asked for."""
    order: tuple[str, ...] = ()
    """Axes from the one whose ranks lie closest together to the farthest."""
    options: dict[str, str] = {}
    """Further arguments of the framework's own initializer, as text."""
    variables: dict[str, str] = {}
    """Environment variables that rule communication, where set."""
    interfaces: tuple[str, ...] = ()
    """Network interfaces of this host."""
    versions: dict[str, str] = {}
    """torch, distwatch."""
    site: Site | None = None


class FindingRaised(Event, frozen=True, kw_only=True):
    """A diagnosis that this process itself came to and told its caller, or printed."""

    finding: Finding
    step: str = ""


class MeshMade(Event, MemberSpans, frozen=True, kw_only=True):
    """A device mesh: axes from the outermost in, and its ranks in row-major order."""

    device: str
    axes: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    site: Site | None = None


class HeldGroup(MemberSpans, frozen=True, kw_only=True, omit_defaults=True):
    """A process group as a framework holds it."""

    role: str
    """The framework's own name for it."""
    pg_name: str = ""
    axis: str = ""
    """tp, pp, cp, ep, dp, etp, edp, or a name of the framework's; empty: along several axes."""
    members: tuple[int, ...] = ()
    """Global ranks in the order of the axis; left out where there is none."""


class LayoutHeld(Event, frozen=True, kw_only=True):
    """A framework's parallel state, as this process holds it from now on."""

    framework: str
    number: int = 1
    """Which initialization of this framework in this process it is, from 1; 0: it was not seen."""
    label: str = ""
    """What the call asked for, as its step says it."""
    sizes: dict[str, int] = {}
    """By axis, as the groups have them."""
    order: tuple[str, ...] = ()
    """Axes from the one whose ranks lie closest together, where the call said it."""
    groups: tuple[HeldGroup, ...] = ()
    site: Site | None = None
    stack: tuple[str, ...] = ()
    """The user's frames of the call that built it, the innermost last."""


class LayoutReleased(Event, frozen=True, kw_only=True):
    """A framework's parallel state was taken down."""

    framework: str


class GradientSkipped(Event, frozen=True, kw_only=True):
    """Backward steps of this rank's pipeline stage were left out: its output needs no gradient.

    Written at the first one, then at every tenfold, and when one was not left out after that.
    """

    framework: str
    skipped: int
    of: int
    """Backward steps so far, those included."""
    site: Site | None = None


class NonMemberCalled(Event, frozen=True, kw_only=True):
    """A collective was called on a group that this rank is not in: torch does nothing then."""

    op: str
    site: Site | None = None


class IntegrationChanged(Event, frozen=True, kw_only=True):
    """An integration's honest status: `reason` says why it was skipped or failed."""

    name: str
    status: Literal["armed", "applied", "skipped", "failed", "removed"]
    reason: str = ""
    version: str = ""


class StepStarted(Event, frozen=True, kw_only=True):
    """A supervised call began. The observer judges its deadline; nobody else acts on it."""

    step: int
    name: str
    parent: int | None = None
    deadline_s: float | None = None
    label: str = ""
    total: int | None = None
    site: Site | None = None
    thread: str = ""


class StepProgressed(Event, frozen=True, kw_only=True):
    step: int
    done: int
    total: int | None = None
    label: str = ""
    parameters: int = 0
    """Of a load: tensors placed so far."""
    parameters_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None


class StepEnded(Event, frozen=True, kw_only=True):
    step: int
    error: str | None = None


class LoadPlanned(Event, frozen=True, kw_only=True):
    """A load began with these arguments. `step` is its outermost step."""

    step: int
    arguments: LoadArguments


class ModelPlaced(Event, frozen=True, kw_only=True):
    """A load ended well, and this is where the model lies."""

    step: int
    placement: Placement


class SideWorldJoined(Event, frozen=True, kw_only=True):
    """This process goes to meet others beside its default group: for weight sync, or in a bare store.

    Said again, under the same number, when more becomes known of it.
    """

    number: int
    """The 1-based index of the meeting in this process."""
    step: int
    """The step in which it waits for the others now, or did last."""
    endpoint: str = ""
    """`host:port` of the store."""
    name: str = ""
    """The group's; empty while only a store is there."""
    group_rank: int | None = None
    """Its rank there, which is not its global one."""
    size: int | None = None
    at_endpoint: int = 1
    """The 1-based index of the meeting of this process at that endpoint."""
    of_name: int = 0
    """The 1-based index of the meeting of that name at that endpoint; 0 without a name."""
    via: Literal["rendezvous", "process group", "store"] = "rendezvous"
    site: Site | None = None


class GroupCreated(Event, MemberSpans, frozen=True, kw_only=True):
    """This process now holds a process group."""

    pg_name: str
    pg_desc: str = ""
    backend: str = ""
    members: tuple[int, ...] = ()
    timeout_s: float | None = None
    site: Site | None = None
    axis: str = ""
    """The axis of a device mesh or parallel layout that this group runs along."""
    world: str = ""
    """The store of a group that is a world of its own, whose members number themselves."""


class GroupCalled(Event, MemberSpans, frozen=True, kw_only=True):
    """`new_group` was called, by members and non-members alike: call number `number` of it."""

    number: int
    members: tuple[int, ...] | None
    pg_desc: str = ""
    site: Site | None = None


class GroupDestroyed(Event, frozen=True, kw_only=True):
    pg_name: str
    """Empty: all of them."""


class SiteSeen(Event, frozen=True, kw_only=True):
    """A call site got a small number, which the operations ring uses."""

    number: int
    site: Site


class CollectivesDumped(Event, frozen=True, kw_only=True):
    """The newest entries of the flight recorder, on suspicion or on request."""

    reason: str
    entries: tuple[Collective, ...] = ()
    packed: PackedEntries | None = None
    """Only on the wire: `entries`, packed."""
    not_observed: str | None = None

    def __post_init__(self) -> None:
        if self.packed is not None:
            msgspec.structs.force_setattr(self, "entries", unpack_entries(self.packed))
            msgspec.structs.force_setattr(self, "packed", None)


class ExceptionUncaught(Event, frozen=True, kw_only=True):
    """An exception left the main thread: the process is about to end with code 1."""

    type_name: str
    message: str
    traceback: tuple[str, ...] = ()
    site: Site | None = None
    cause: str = ""


GAVE_UP = "DISTWATCH_ON_HANG=abort"
"""How the reason begins when a rank ended itself because the others never came."""


class ProcessEnding(Event, frozen=True, kw_only=True):
    """The interpreter is shutting down in an orderly way, or distwatch ends it as it was asked to."""

    reason: str = "exit"


class HookFailed(Event, frozen=True, kw_only=True):
    """A hook raised inside distwatch and switched itself off; the job went on."""

    hook: str
    error: str


class Snapshot(Event, frozen=True, kw_only=True):
    """What a reader needs to go on when the ring has overwritten older records."""

    started: ProcessStarted
    worker: WorkerPlaced | None = None
    confirmed: IdentityConfirmed | None = None
    integrations: tuple[IntegrationChanged, ...] = ()
    groups: tuple[GroupCreated, ...] = ()
    group_calls: tuple[GroupCalled, ...] = ()
    planned: InitPlanned | None = None
    raised: tuple[FindingRaised, ...] = ()
    loads: tuple[LoadPlanned, ...] = ()
    placed: tuple[ModelPlaced, ...] = ()
    meshes: tuple[MeshMade, ...] = ()
    layouts: tuple[LayoutHeld, ...] = ()
    skipped: tuple[GradientSkipped, ...] = ()
    side_worlds: tuple[SideWorldJoined, ...] = ()
    initialized: bool = False
    """Whether a default process group holds now."""
    steps: tuple[tuple[int, StepStarted], ...] = ()
    """Open steps, each with its start time (ns)."""
    sites: tuple[SiteSeen, ...] = ()
    dropped: int = 0
