"""Events about a process, and their parts, written by the agent inside it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cached_property
from typing import Literal

import msgspec

from distwatch.state.bounds import Bounded, Finite
from distwatch.state.codec import share, share_parts
from distwatch.state.event import Event
from distwatch.state.finding import Finding
from distwatch.state.identity import IDENTITY_PARTS, Identity
from distwatch.state.loads import LoadArguments, Placement
from distwatch.state.recorder_entries import (
    Collective,
    PackedEntries,
    check_packed,
    completed_in,
    completed_of,
    pack_entries,
    unpack_entries,
)
from distwatch.state.retention import last, latest


class Site(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A line in the user's source."""

    file: str
    line: int
    function: str = "?"
    caller: str = ""
    """Of a call that is not the main thread's own: `thread saver`, `the finalizer Metric.__del__`."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


class ProcessStarted(Event, frozen=True, kw_only=True):
    """The first record of every agent's journal."""

    retain = latest()

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
    deadlines: dict[str, Finite] = {}
    on_hang: str = "report"
    """DISTWATCH_ON_HANG as this process has read it: nobody acts on a process that did not ask for it."""
    attached: bool = False
    """The agent was brought in by somebody who is still attached: what was under way it does not know."""

    def from_wire(self) -> Event:
        share_parts(self.identity, *IDENTITY_PARTS)
        return share_parts(self, "host", "command", "python", "cwd", "deadlines")


class IdentityConfirmed(Bounded, Event, frozen=True, kw_only=True):
    """What torch says once the default process group exists."""

    retain = latest()

    global_rank: int
    world_size: int
    local_rank: int | None = None
    unrecorded: tuple[str, ...] = ()
    """Backends whose calls this torch's flight recorder does not see."""


class WorkerPlaced(Event, frozen=True, kw_only=True):
    """This process's ids in the cluster that runs it, by the cluster's own names."""

    retain = latest()

    cluster: Literal["ray"] = "ray"
    job_id: str = ""
    node_id: str = ""
    worker_id: str = ""
    actor_id: str = ""
    actor_name: str = ""
    """Empty: the actor has no name."""
    actor_class: str = ""


class InitPlanned(Bounded, Event, frozen=True, kw_only=True):
    """What a rank is about to initialize with, from its call and its environment.

    The plans of all ranks are compared: a world forms only where they agree.
    """

    retain = latest()

    number: int = 1
    """The 1-based index of this initialization in the process: a closed world can be formed again."""
    by: Literal["torch", "distwatch"] = "torch"
    """Who performs it: the user's own call, or `distwatch.initialize`."""
    global_rank: int | None = None
    world_size: int | None = None
    method: str = "env"
    """env, tcp, file or store: where the rank gets its store."""
    endpoint: str = ""
    """`host:port`, or the file of a FileStore; empty where it is unknown."""
    hosts_store: bool = False
    """Whether this process listens at the endpoint."""
    backend: str = ""
    device: str = ""
    """The UUID of the accelerator that this rank will use; empty where there is none."""
    timeout_s: Finite | None = None
    framework: str = ""
    sizes: dict[str, int] = {}
    """The requested parallel sizes, by axis."""
    order: tuple[str, ...] = ()
    """Axes, from the one whose ranks are closest together to the farthest."""
    options: dict[str, str] = {}
    """Further arguments of the framework's own initializer, as text."""
    variables: dict[str, str] = {}
    """The environment variables for communication that are set."""
    interfaces: tuple[str, ...] = ()
    """Network interfaces of this host."""
    versions: dict[str, str] = {}
    """torch, distwatch."""
    site: Site | None = None

    def from_wire(self) -> Event:
        return share_parts(
            self, "endpoint", "backend", "sizes", "order", "options", "variables", "interfaces",
            "versions", "site",
        )  # fmt: skip


class FindingRaised(Event, frozen=True, kw_only=True):
    """This process's own diagnosis, which it raised to its caller or printed."""

    retain = last(16)

    finding: Finding
    step: str = ""


IntegrationStatus = Literal["armed", "applied", "skipped", "failed", "removed"]


class IntegrationChanged(Event, frozen=True, kw_only=True):
    """An integration's status; `reason` says why it was skipped or failed."""

    retain = latest("name", most=64)

    name: str
    status: IntegrationStatus
    reason: str = ""
    version: str = ""

    def from_wire(self) -> Event:
        return share(self)


class StepStarted(Event, frozen=True, kw_only=True):
    """A supervised call began. Only the observer judges its deadline."""

    retain = latest("step", most=1024)

    step: int
    name: str
    parent: int | None = None
    deadline_s: Finite | None = None
    label: str = ""
    total: int | None = None
    site: Site | None = None
    thread: str = ""

    def from_wire(self) -> Event:
        return share_parts(self, "name", "label", "site", "thread")


class StepProgressed(Event, frozen=True, kw_only=True):
    step: int
    done: int
    total: int | None = None
    label: str = ""
    parameters: int = 0
    """For a load: tensors placed so far."""
    parameters_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None


class StepEnded(Event, frozen=True, kw_only=True):
    step: int
    error: str | None = None

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        return ((StepStarted, self.step),)


class LoadPlanned(Event, frozen=True, kw_only=True):
    """A load began with these arguments. `step` is its outermost step."""

    retain = latest("step", most=8)

    step: int
    arguments: LoadArguments


class ModelPlaced(Event, frozen=True, kw_only=True):
    """A load succeeded; where the model is."""

    retain = latest("step", most=8)

    step: int
    placement: Placement


class SiteSeen(Event, frozen=True, kw_only=True):
    """A call site got a small number for use in the operations ring."""

    retain = latest("number", most=512)
    is_routine = True

    number: int
    site: Site
    called_from: int = 0
    """The number of the line that called this function; 0 where it is not known."""

    def from_wire(self) -> Event:
        return share_parts(self, "site")


class CollectivesDumped(Event, frozen=True, kw_only=True, dict=True, gc=True):
    """The newest entries of the flight recorder, on suspicion or on request.

    They stay packed until somebody reads them: ten thousand ranks have 640,000, of which few are ever read.
    """

    reason: str
    listed: tuple[Collective, ...] = msgspec.field(default=(), name="entries")
    """Entries that cannot be packed, or that an older version wrote; read `entries`."""
    packed: PackedEntries | None = None
    not_observed: str | None = None

    @classmethod
    def of(cls, reason: str, entries: tuple[Collective, ...]) -> CollectivesDumped:
        packed = pack_entries(entries)
        return cls(reason=reason, listed=() if packed else entries, packed=packed)

    @cached_property
    def entries(self) -> tuple[Collective, ...]:
        return self.listed if self.packed is None else unpack_entries(self.packed)

    @property
    def kinds(self) -> tuple[Collective, ...]:
        """Each call that is among the entries; its number and time do not count."""
        return self.listed if self.packed is None else self.packed.kinds

    def find(self, pg_name: str, seq: int) -> Collective | None:
        """The newest entry of that collective of a group."""
        if not any(kind.pg_name == pg_name and not kind.is_p2p for kind in self.kinds):
            return None
        for entry in reversed(self.entries):
            if entry.pg_name == pg_name and entry.seq == seq and not entry.is_p2p:
                return entry
        return None

    def completed(self) -> dict[str, int]:
        """By group, the number up to which its collectives are over."""
        return completed_in(self.listed) if self.packed is None else completed_of(self.packed)

    def from_wire(self) -> Event:
        # Not of each one that is made: a checkpoint holds ten thousand that were checked when they came.
        if self.packed is not None:
            check_packed(self.packed)
        return self


class ExceptionUncaught(Event, frozen=True, kw_only=True):
    """An exception left the main thread: the process is about to end with code 1."""

    retain = latest()

    type_name: str
    message: str
    traceback: tuple[str, ...] = ()
    site: Site | None = None
    cause: str = ""
    """`TypeName: message` of the first exception of its chain; empty where it is the only one."""


class ExceptionHeld(Event, frozen=True, kw_only=True):
    """The main thread has an exception that has not left it: it cleans up, or it tries again.

    Written when one is seen twice, and at the 2nd, 4th, 8th, … different one of the same kind.
    """

    retain = latest()

    type_name: str
    message: str = ""
    """Empty where making it would run the user's code."""
    site: Site | None = None
    """The user's line that raised it."""
    caught_at: Site | None = None
    """The line of the `try` that caught it."""
    times: int = 1
    """How many different ones were seen, at half a second each: there may be many more."""
    since_ns: int = 0


class ExceptionPassed(Event, frozen=True, kw_only=True):
    """The main thread has no exception any more."""

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        return ((ExceptionHeld, ()),)


class ThreadDied(Event, frozen=True, kw_only=True):
    """An exception ended a thread other than the main one."""

    retain = last(16)

    thread: str
    type_name: str
    message: str = ""
    traceback: tuple[str, ...] = ()
    site: Site | None = None


class LimitReached(Event, frozen=True, kw_only=True):
    """An exception said so; with what the process can see of that limit."""

    retain = latest("what", most=8)

    what: str
    used: int | None = None
    limit: int | None = None
    path: str = ""
    """The file, for a limit of a file system."""


class MainEnded(Event, frozen=True, kw_only=True):
    """The main thread has run to its end, and Python waits for what keeps the process alive."""

    retain = latest()

    threads: tuple[str, ...] = ()
    """The threads that it waits for: those that are not daemons."""


GAVE_UP = "DISTWATCH_ON_HANG=abort"
"""How the reason begins when a rank ended itself because of DISTWATCH_ON_HANG."""


class ProcessEnding(Event, frozen=True, kw_only=True):
    """The interpreter is shutting down in an orderly way, or DISTWATCH_ON_HANG=abort ends it."""

    reason: str = "exit"


class AgentLeft(Event, frozen=True, kw_only=True):
    """The agent has taken itself out of a process that goes on: it says nothing of what comes after."""


class HookFailed(Event, frozen=True, kw_only=True):
    """A hook failed inside distwatch and was switched off; the job continued."""

    retain = latest("hook", most=64)

    hook: str
    error: str
