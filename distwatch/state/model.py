"""`RunState`: everything known about one run, as plain data.

There are two kinds of fields. A process's own events are applied in the order of its journal; the
sightings of observers are registers, in which the newest one wins. That is why any interleaving of
streams gives the same state.
"""

from __future__ import annotations

from bisect import insort

import msgspec

from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.host import Host, Stamp
from distwatch.state.identity import Identity
from distwatch.state.loads import LoadArguments, LoadProgress, Placement
from distwatch.state.steps import StepKind, base_name

CLOSED_STEPS_KEPT = 64
SOURCES_KEPT = 512
SOURCE_FILES_KEPT = 32
PORT_ERRORS_KEPT = 1024
INCIDENTS_KEPT = 1024
TIMELINE_KEPT = 2000


class Step(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A supervised call of one process. Times are CLOCK_MONOTONIC ns of its host."""

    step: int
    name: str
    parent: int | None
    deadline_s: float | None
    label: str
    site: ev.Site | None
    thread: str
    started_ns: int
    moved_ns: int
    """Time of its last progress; its start if it has made none."""
    done: int = 0
    total: int | None = None
    parameters: int = 0
    parameters_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None
    ended_ns: int | None = None
    error: str | None = None


class ModelLoad(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One model load of a process; its phases are the steps below `step`."""

    step: int
    arguments: LoadArguments
    began_ns: int
    placement: Placement | None = None
    """Where the model is; None until the load has succeeded."""


class Group(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A process group as one member holds it."""

    pg_name: str
    pg_desc: str
    backend: str
    members: tuple[int, ...]
    timeout_s: float | None
    site: ev.Site | None
    axis: str = ""
    world: str = ""
    """The store of a separate world, whose members have their own numbers; else ''."""
    destroyed_ns: int | None = None


class Sighting(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What observers saw of a process from outside; each field holds the newest sighting."""

    seen: ev.ProcessSighted | None = None
    sample: ev.ProcessSampled | None = None
    pulse: ev.Pulse | None = None
    operations: tuple[ev.Operation, ...] = ()
    exit: ev.ExitSeen | None = None
    exit_ns: int | None = None
    stack: ev.StackTaken | None = None
    stack_ns: int | None = None
    native: ev.StackTaken | None = None
    """The newest stack with C frames; taken once, where Python frames do not show the reason."""
    arguments: ev.ArgumentsRead | None = None
    written: ev.FilesWritten | None = None
    """Looked at where it saves a checkpoint."""
    rendezvous: ev.RendezvousLooked | None = None
    """Of a launcher that has not started a worker yet."""
    connections: ev.ConnectionsSeen | None = None
    last_output: str = ""
    """The last line that it wrote to its log, where that is known."""
    error_file: ev.ErrorFileRead | None = None
    recorder_file: ev.RecorderFileRead | None = None
    """The newest dump that its flight recorder left in a file."""
    aborted: ev.RankAborted | None = None
    """DISTWATCH_ON_HANG=abort has ended it, or tries to."""
    not_observed: dict[str, str] = {}
    stamps: dict[str, Stamp] = {}


class Process(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One process of the run, with distwatch inside or only seen from outside."""

    key: str
    started: ev.ProcessStarted | None = None
    started_ns: int | None = None
    worker: ev.WorkerPlaced | None = None
    """Its ids in the cluster that runs it; None without a cluster."""
    planned: ev.InitPlanned | None = None
    """Its newest initialization: in progress, done or failed."""
    planned_ns: int | None = None
    initialized: bool = False
    """Whether it holds a default process group now."""
    confirmed: ev.IdentityConfirmed | None = None
    integrations: dict[str, ev.IntegrationChanged] = {}
    steps: dict[int, Step] = {}
    loads: dict[int, ModelLoad] = {}
    """By the number of their outermost step; a bounded number."""
    groups: dict[str, Group] = {}
    extra_groups: dict[int, ev.ExtraGroupJoined] = {}
    """Worlds besides the default group, by their number; a bounded number."""
    world_ended_ns: int = 0
    """When all of its groups were last destroyed together."""
    group_calls: dict[int, ev.GroupCalled] = {}
    """Calls of `new_group`, by their number; the newest."""
    local_group_calls: dict[int, ev.LocalGroupCalled] = {}
    """Those that only members make."""
    sites: dict[int, ev.Site] = {}
    callers: dict[int, int] = {}
    """By the number of a call site, the number of the line that called its function."""
    meshes: list[ev.MeshMade] = []
    layouts: dict[str, ev.LayoutHeld] = {}
    """Its current parallel states, by framework."""
    layouts_ns: dict[str, int] = {}
    skipped_gradients: dict[str, ev.GradientSkipped] = {}
    """By framework."""
    raised: list[ev.FindingRaised] = []
    """Its own findings, the oldest first; a bounded number."""
    non_member_calls: list[ev.NonMemberCalled] = []
    collectives: ev.CollectivesDumped | None = None
    retired: dict[str, int] = {}
    """By group, the last completed collective in those entries; a group without one is absent.

    torch's own status may be behind: of several threads that complete collectives, the last writer wins.
    """
    exception: ev.ExceptionUncaught | None = None
    exception_ns: int | None = None
    exception_by_agent: bool = False
    """False where only torchelastic's error file reports it."""
    held_exception: ev.ExceptionHeld | None = None
    """What its main thread has caught and not passed on."""
    dead_threads: list[ev.ThreadDied] = []
    limits: dict[str, ev.LimitReached] = {}
    """By what is limited."""
    main_ended: ev.MainEnded | None = None
    main_ended_ns: int | None = None
    ending: ev.ProcessEnding | None = None
    ending_ns: int | None = None
    left_ns: int | None = None
    """When its agent took itself out."""
    hook_failures: dict[str, str] = {}
    last_seq: int = 0
    last_ns: int = 0
    gaps: int = 0
    """Number of records that are known to be lost."""
    outside: Sighting = msgspec.field(default_factory=Sighting)
    host: str = ""
    """As its key names it."""

    def __post_init__(self) -> None:
        # Asked for many times a judgement, of ten thousand processes.
        self.host = self.key.rpartition("-")[0]

    @property
    def identity(self) -> Identity:
        """From its own environment, or as read from outside."""
        return self._described.identity if self._described else Identity()

    @property
    def global_rank(self) -> int | None:
        """As torch says, else as the environment says; a newer plan wins over both."""
        planned = self.planned.global_rank if self.planned is not None else None
        confirmed = self.confirmed.global_rank if self.confirmed is not None else None
        first, second = (confirmed, planned) if self.initialized else (planned, confirmed)
        if first is not None:
            return first
        return second if second is not None else self.identity.global_rank

    @property
    def world_size(self) -> int | None:
        """The size of its world; a plan that is newer than torch's answer wins."""
        planned = self.planned.world_size if self.planned else None
        confirmed = self.confirmed.world_size if self.confirmed else None
        said = confirmed or planned if self.initialized else planned or confirmed
        return said or self.identity.world_size

    @property
    def beyond(self) -> tuple[str, ...]:
        """Sizes from it or its environment that were cut: see `bounds`."""
        said = (self.identity, self.planned, self.confirmed, *self.extra_groups.values())
        return tuple(dict.fromkeys(text for one in said if one for text in one.beyond))

    @property
    def _described(self) -> ev.ProcessStarted | ev.ProcessSighted | None:
        return self.started or self.outside.seen

    @property
    def pid(self) -> int:
        described = self.started or self.outside.seen
        return described.pid if described else 0

    @property
    def address(self) -> str:
        """`pid 4711 on node1`; without the pid where nothing tells it."""
        return f"pid {self.pid} on {self.host}" if self.pid else f"a process on {self.host}"

    @property
    def ppid(self) -> int:
        return self._described.ppid if self._described else 0

    @property
    def role(self) -> str:
        """rank, launcher, dataloader, child, other."""
        if self.confirmed is not None or self.planned is not None:
            return "rank"
        return self._described.role if self._described else "other"

    @property
    def command(self) -> tuple[str, ...]:
        return self._described.command if self._described else ()

    @property
    def actor(self) -> str:
        """`Trainer "t0" in fit`: an actor and its current method; '' for other processes."""
        if self.worker is None or not self.worker.actor_id:
            return ""
        name = f' "{self.worker.actor_name}"' if self.worker.actor_name else ""
        title = self.outside.pulse.title if self.outside.pulse else ""
        method = title.removeprefix("ray::").partition(".")[2]
        doing = f" in {method}" if method else ""
        return f"{self.worker.actor_class or 'actor'}{name}{doing}"

    @property
    def instrumented(self) -> bool:
        """Whether distwatch runs inside it."""
        return self.started is not None

    @property
    def known_from_start(self) -> bool:
        """Whether distwatch has been inside it from the start, or for long enough to know what is under way."""
        return self.started is not None and not self.started.attached

    @property
    def main_frames(self) -> tuple[ev.Frame, ...]:
        """The main thread's frames as last seen from outside, the outermost first."""
        return self.outside.stack.main_frames(self.pid) if self.outside.stack else ()

    @property
    def ended_ns(self) -> int | None:
        """When it was first seen to be gone; None while it is alive, or where nobody looked."""
        return self.outside.exit_ns

    def load_progress(self, step: int) -> LoadProgress | None:
        """Its pulse's entry for a load in progress."""
        loads = self.outside.pulse.loads if self.outside.pulse else ()
        return next((load for load in loads if load.step == step), None)

    def open_steps(self) -> list[Step]:
        """Steps that have not ended, outermost first."""
        steps = [step for step in self.steps.values() if step.ended_ns is None]
        return sorted(steps, key=lambda step: step.step) if len(steps) > 1 else steps

    def open_call_of(self, kind: StepKind) -> Step | None:
        """The outermost call of that kind that has not ended."""
        return next((s for s in self.open_steps() if base_name(s.name) in kind.calls), None)


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A notable event, ordered by host time, then by stream and sequence number."""

    time_ns: int
    stream: str
    seq: int
    host: str
    process: str
    event: ev.Event

    @property
    def stamp(self) -> Stamp:
        return (self.time_ns, self.stream, self.seq)


class RunState(msgspec.Struct, kw_only=True, gc=False):
    """One run. Only `reduce` changes it; everything else reads it."""

    run_id: str = ""
    processes: dict[str, Process] = {}
    hosts: dict[str, Host] = {}
    sources: dict[tuple[str, int], str] = {}
    """Source lines that verdicts refer to, by file and line."""
    source_files: dict[str, ev.SourceFileRead] = {}
    """Source files in which ranks may have parted, by path; a bounded number."""
    judged: ev.FindingsJudged | None = None
    judged_stamp: Stamp = (0, "", 0)
    incidents: dict[tuple[str, int], tuple[Stamp, ev.FindingsJudged]] = {}
    """The newest verdict of each incident, by its observer's host and its number; a bounded number."""
    streams: dict[str, int] = {}
    """The last sequence number read of each observer's stream."""
    timeline: list[TimelineEntry] = []
    unknown_events: int = 0

    @property
    def recorded_findings(self) -> tuple[Finding, ...]:
        """The newest verdict of an observer; with several hosts, only one about the whole run."""
        if self.judged is None or (self.judged.of_one_host and len(self.hosts) > 1):
            return ()
        return self.judged.findings

    @property
    def dropped_events(self) -> int:
        """Number of events that are known to be lost."""
        pulses = [process.outside.pulse for process in self.processes.values()]
        gaps = sum(process.gaps for process in self.processes.values())
        return gaps + sum(pulse.dropped for pulse in pulses if pulse)

    def wall_ns(self, host: str, time_ns: int) -> int:
        """A time of that host by the wall clock, the only clock that hosts share."""
        held = self.hosts.get(host)
        return time_ns + (held.wall_offset_ns if held else 0)

    def remember(self, entry: TimelineEntry) -> None:
        """Keeps the newest TIMELINE_KEPT entries, whatever order they arrive in."""
        if len(self.timeline) >= TIMELINE_KEPT:
            if entry.stamp < self.timeline[0].stamp:
                return
            del self.timeline[0]
        if not self.timeline or self.timeline[-1].stamp <= entry.stamp:
            self.timeline.append(entry)
        else:
            insort(self.timeline, entry, key=lambda e: e.stamp)
