"""Everything that can be written to a journal: frozen facts in the past tense.

An agent writes about its own process; an observer writes what it sees from outside. Times
are CLOCK_MONOTONIC nanoseconds of the host and travel in the frame, not in the event.
A kind that this version does not know decodes to `UnknownEvent` and survives re-encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, TypeVar

import msgspec

from distwatch.state.event import Event, kind_of
from distwatch.state.finding import Finding
from distwatch.state.identity import Identity
from distwatch.state.loads import LoadArguments, LoadProgress, Placement
from distwatch.state.rank_spans import Spans, pack_ranks, unpack_ranks
from distwatch.state.ray_events import (
    RayActorSeen,
    RayGroupSeen,
    RayJobSeen,
    RayLooked,
    RayNodeSeen,
)
from distwatch.state.recorder_entries import (
    Collective,
    PackedEntries,
    pack_entries,
    unpack_entries,
)


class UnknownEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of a newer distwatch: kept, shown by its kind, and never interpreted."""

    kind: str
    payload: bytes


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


# ---- written by the agent, about its own process --------------------------------------


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
    """The how many-th meeting of this process it is, from 1."""
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
    """The how many-th of this process at that endpoint."""
    of_name: int = 0
    """The how many-th of that name at that endpoint; 0 without a name."""
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
"""How the reason of a rank's end begins that ended itself, since it waited in vain."""


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


# ---- written by an observer, about what it sees from outside -----------------------------


class ObserverStarted(Event, frozen=True, kw_only=True):
    host: str
    pid: int
    distwatch_version: str = ""
    embedded: bool = False


class ObserverEnded(Event, frozen=True, kw_only=True):
    host: str
    reason: str


class LinkChanged(Event, frozen=True, kw_only=True):
    """An observer reaches another host's observer, or no longer does."""

    host: str
    """Of the observer that says so."""
    peer: str
    """The other host's name; of the root, where it is reached."""
    linked: bool
    why: str = ""
    silent_s: float = 0.0
    """For how long nothing had come from it by then."""
    ended: bool = False
    """It took its leave in order: there is nothing more to see of it."""


class Ticked(Event, frozen=True, kw_only=True):
    """The host's clock moved on: deadlines are judged against the newest time seen."""

    host: str


class ProcessSighted(Event, frozen=True, kw_only=True):
    """A process of the job was seen in the process table."""

    process: str
    host: str
    pid: int
    start_ticks: int
    ppid: int
    role: str
    """rank, launcher, dataloader, child, …"""
    identity: Identity
    command: tuple[str, ...] = ()
    instrumented: bool = False


class ProcessSampled(Event, frozen=True, kw_only=True):
    process: str
    state: str
    """The kernel's letter: R, S, D, T, Z, …"""
    wchan: str = ""
    syscall: str = ""
    cpu_s: float | None = None
    rss_bytes: int | None = None
    threads: int | None = None
    blocked_on: str = ""
    """The file or socket that the main thread's system call is about, where readable."""
    children: tuple[int, ...] = ()


class EndpointProbed(Event, frozen=True, kw_only=True):
    """What answers at the address where a job's ranks are to meet, as seen from `host`."""

    host: str
    endpoint: str
    outcome: Literal["store", "refused", "silent", "no_answer", "unresolved", "foreign", "error"]
    """A TCPStore answered · nobody listens · accepts and says nothing · packets vanish ·
    the name is unknown · something else than a TCPStore answered · any other failure."""
    detail: str = ""
    addresses: tuple[str, ...] = ()
    owner_pid: int | None = None
    """The listener, where it is on this host and ours to see."""
    owner_command: tuple[str, ...] = ()
    owner_process: str | None = None
    """The key of that process."""
    clients: int | None = None
    """How many torch clients have joined the store."""
    arrived: tuple[int, ...] = ()
    """Ranks that published their address in it."""


class GroupProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How far this process is in one process group (sequence numbers of torch, -1: none)."""

    pg_name: str
    enqueued: int = -1
    completed: int = -1
    changed_ns: int = 0
    """When either number last moved, as the agent's thread saw it (at most one beat late)."""
    p2p: int = -1


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One call of a `ProcessGroup` method from Python, from the operations ring."""

    number: int
    op: str
    pg_name: str
    seq: int = -1
    """Expected collective sequence number in its group, -1 where it is not known."""
    site: int = 0
    entered_ns: int
    left_ns: int = 0
    """0: the call has not returned."""
    numel: int = -1
    dtype: str = ""
    peer: int = -1
    """The other side's rank within the group, -1 where there is none or any will do."""
    tag: int = 0
    p2p_seq: int = -1
    """For a send or recv: the how many-th it is to or from that peer with that tag, from 1."""


class PeerProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many sends to, or recvs from, one peer this process has posted in one group."""

    pg_name: str
    op: Literal["send", "recv"]
    peer: int
    """The peer's rank within the group; -1: a recv from any."""
    tag: int = 0
    posted: int


class Pulse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The live page of one process, rewritten in place by the agent's thread."""

    beat: int = 0
    beat_ns: int = 0
    groups: tuple[GroupProgress, ...] = ()
    peers: tuple[PeerProgress, ...] = ()
    """The peers last sent to or received from; a bounded number."""
    loads: tuple[LoadProgress, ...] = ()
    """Model loads under way."""
    recorder: str = ""
    """Where the sequence numbers come from, or why there are none."""
    dropped: int = 0
    title: str = ""
    """What a Ray worker does, as its process title says it: `ray::Trainer.fit`."""


class PulseRead(Event, frozen=True, kw_only=True):
    process: str
    pulse: Pulse
    operations: tuple[Operation, ...] = ()


class ExitSeen(Event, frozen=True, kw_only=True):
    """The process is gone. Code and signal are None where nothing said them."""

    process: str
    exit_code: int | None = None
    signal: int | None = None
    how: str = ""
    oom_killed: str | None = None
    """The kernel's or cgroup's words for it, where one said so."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    function: str
    file: str
    line: int = 0
    native: bool = False


class ThreadStack(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thread, outermost frame first."""

    name: str = ""
    os_thread_id: int | None = None
    active: bool = False
    owns_gil: bool = False
    frames: tuple[Frame, ...] = ()


class StackTaken(Event, frozen=True, kw_only=True):
    process: str
    threads: tuple[ThreadStack, ...] = ()
    source: str = "py-spy"
    error: str | None = None
    native: bool = False
    """Whether C frames are among them."""
    unchanged_since_ns: int | None = None
    """Since when this observer saw the main thread's frames just so."""
    settled_since_ns: int | None = None
    """Since when it saw the main thread inside the same call of the user's code: lines within
    that function, and what it calls, may differ."""
    settled_cpu_s: float | None = None
    """CPU seconds that the main thread has used since then."""


class Connection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A TCP connection whose data does not get through, as the kernel's table shows it."""

    local: str
    """`address:port`"""
    peer: str
    state: str
    """The kernel's word: established, syn_sent, …"""
    unacknowledged_bytes: int = 0
    retransmits: int = 0
    """How often the oldest of it was sent again, or the connection attempt repeated."""


class ConnectionsSeen(Event, frozen=True, kw_only=True):
    """A process's connections to other addresses; only those that are stuck are listed."""

    process: str
    addresses: tuple[str, ...] = ()
    """Its own addresses, as they stand in its connections."""
    stuck: tuple[Connection, ...] = ()


class SourceLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    file: str
    line: int
    text: str


class SourcesRead(Event, frozen=True, kw_only=True):
    """Lines of source that a verdict is about, as they stood in the files when it was made."""

    host: str
    lines: tuple[SourceLine, ...] = ()


class ErrorFileRead(Event, frozen=True, kw_only=True):
    """What an ended process left in its TORCHELASTIC_ERROR_FILE."""

    process: str
    type_name: str
    message: str
    traceback: tuple[str, ...] = ()


class LockHolder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A process that a lock file belongs to."""

    pid: int
    """0: one that this host cannot see."""
    command: tuple[str, ...] = ()
    alive: bool = True


class LockLooked(Event, frozen=True, kw_only=True):
    """A lock file that a process waits for, as it stands on `host`."""

    host: str
    path: str
    exists: bool = True
    holders: tuple[LockHolder, ...] = ()
    """Who holds it: by the kernel's table, or by the lock file's own words."""
    says_host: str = ""
    """The host that the lock file's own words name."""
    age_s: float | None = None
    """Since it was last written."""
    not_observed: str = ""


class HostSampled(Event, frozen=True, kw_only=True):
    host: str
    memory_total: int = 0
    memory_available: int = 0
    cgroup_limit: int | None = None
    cgroup_used: int | None = None
    oom_kills: int | None = None
    cpus: int | None = None
    load: float | None = None


class DeviceUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    pid: int
    memory_bytes: int | None = None
    utilization: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One accelerator. None: not reported by its driver."""

    index: int
    uuid: str = ""
    name: str = ""
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: int | None = None
    temperature_c: int | None = None
    throttle: tuple[str, ...] = ()
    ecc_uncorrected: int | None = None
    xid: tuple[int, ...] = ()
    processes: tuple[DeviceUse, ...] = ()


class DevicesSampled(Event, frozen=True, kw_only=True):
    host: str
    devices: tuple[Device, ...] = ()
    not_observed: str | None = None


class NotObserved(Event, frozen=True, kw_only=True):
    """Something could not be seen, and why: missing is not zero."""

    host: str
    what: str
    why: str
    process: str | None = None


class FindingsJudged(Event, frozen=True, kw_only=True):
    """The verdict changed. Kept for the record; viewers derive their own."""

    host: str
    findings: tuple[Finding, ...] = ()
    incident: int | None = None
    of_one_host: bool = False
    """By an observer that sees its own host alone, while another one sees all."""


AnyEvent = (
    ProcessStarted
    | WorkerPlaced
    | InitPlanned
    | FindingRaised
    | MeshMade
    | LayoutHeld
    | LayoutReleased
    | GradientSkipped
    | NonMemberCalled
    | IdentityConfirmed
    | IntegrationChanged
    | StepStarted
    | StepProgressed
    | StepEnded
    | LoadPlanned
    | ModelPlaced
    | SideWorldJoined
    | GroupCreated
    | GroupCalled
    | GroupDestroyed
    | SiteSeen
    | CollectivesDumped
    | ExceptionUncaught
    | ProcessEnding
    | HookFailed
    | Snapshot
    | ObserverStarted
    | ObserverEnded
    | LinkChanged
    | Ticked
    | ProcessSighted
    | ProcessSampled
    | PulseRead
    | EndpointProbed
    | ExitSeen
    | StackTaken
    | ConnectionsSeen
    | SourcesRead
    | ErrorFileRead
    | LockLooked
    | HostSampled
    | DevicesSampled
    | NotObserved
    | RayActorSeen
    | RayNodeSeen
    | RayGroupSeen
    | RayJobSeen
    | RayLooked
    | FindingsJudged
)

_Listing = TypeVar("_Listing", MeshMade, GroupCreated, GroupCalled, HeldGroup)


def _packed(listing: _Listing) -> _Listing:
    spans = pack_ranks(listing.members) if listing.members else ()
    if not spans:
        return listing
    packed = msgspec.structs.replace(listing, members=())
    msgspec.structs.force_setattr(packed, "spans", spans)
    return packed


def _packed_layout(held: LayoutHeld) -> LayoutHeld:
    return msgspec.structs.replace(held, groups=tuple(map(_packed, held.groups)))


def _packed_snapshot(snapshot: Snapshot) -> Snapshot:
    return msgspec.structs.replace(
        snapshot,
        groups=tuple(map(_packed, snapshot.groups)),
        group_calls=tuple(map(_packed, snapshot.group_calls)),
        meshes=tuple(map(_packed, snapshot.meshes)),
        layouts=tuple(map(_packed_layout, snapshot.layouts)),
    )


def _packed_dump(dumped: CollectivesDumped) -> CollectivesDumped:
    packed = pack_entries(dumped.entries)
    if packed is None:
        return dumped
    short = msgspec.structs.replace(dumped, entries=())
    msgspec.structs.force_setattr(short, "packed", packed)
    return short


_PACKERS: dict[type, Callable[[Any], AnyEvent]] = {
    MeshMade: _packed,
    GroupCreated: _packed,
    GroupCalled: _packed,
    LayoutHeld: _packed_layout,
    CollectivesDumped: _packed_dump,
    Snapshot: _packed_snapshot,
}

_T = TypeVar("_T")
_MEMO = 8192


@lru_cache(maxsize=_MEMO)
def _one(value: _T) -> _T:
    """The first of all equal values: ranks of one job tell the same things in the same words."""
    return value


def _share_frames(taken: StackTaken) -> StackTaken:
    for thread in taken.threads:
        msgspec.structs.force_setattr(thread, "frames", _one(thread.frames))
    return taken


_SHARERS: dict[type, Callable[[Any], AnyEvent]] = {
    IntegrationChanged: _one,
    StackTaken: _share_frames,
}
"""What is done to an event that was just decoded, so that equal parts are one object."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEvent] = msgspec.msgpack.Decoder(AnyEvent)
_KNOWN = frozenset(kind_of(t.__name__) for t in AnyEvent.__args__)


def encode_event(event: AnyEvent | UnknownEvent) -> bytes:
    """An event as msgpack."""
    if isinstance(event, UnknownEvent):
        return event.payload
    packer = _PACKERS.get(type(event))
    return _encoder.encode(packer(event) if packer else event)


def decode_event(payload: bytes) -> AnyEvent | UnknownEvent | None:
    """An event from msgpack; None where the bytes are no event. Never raises on garbage."""
    try:
        event = _decoder.decode(payload)
        share = _SHARERS.get(type(event))
        return share(event) if share else event
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
        return _unknown(payload)


def _unknown(payload: bytes) -> UnknownEvent | None:
    try:
        plain: Any = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, TypeError):
        return None
    kind = plain.get("kind") if isinstance(plain, dict) else None
    # A known kind that does not fit its type is damage or abuse, not a newer version.
    if not isinstance(kind, str) or kind in _KNOWN:
        return None
    return UnknownEvent(kind=kind, payload=payload)
