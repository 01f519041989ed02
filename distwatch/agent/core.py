"""The agent: one per process, records what the hooks see and beats while it can.

Nothing here judges. Deadlines are written down and judged by the observer, because whoever
hangs cannot report itself.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import CodeType

import msgspec

from distwatch import __version__
from distwatch.agent.control import ControlSocket
from distwatch.agent.entry import enter_run
from distwatch.agent.guard import guard
from distwatch.agent.journal import CAPACITY, Journal
from distwatch.agent.observer_start import ObserverStart
from distwatch.agent.pulse import OperationsRing, PulsePage
from distwatch.redaction import redact_command
from distwatch.runfolder import RunFolder, boot_id, host_name, start_ticks
from distwatch.settings import Settings, read_settings
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import identify
from distwatch.state.loads import LoadProgress
from distwatch.state.steps import StepKind

BEAT_S = 0.5
SITES_KEPT = 20_000
log = logging.getLogger("distwatch")


class Agent:
    """Records this process's facts. Its methods never raise into the host's code path."""

    def __init__(self, settings: Settings, folder: RunFolder, stem: str, role: str) -> None:
        """Creates journal and pulse and starts the beating thread.

        Raises:
            OSError: there is no place for a safe memory map.
        """
        self.settings = settings
        self.folder = folder
        self.progress_sources: list[Callable[[], Iterable[ev.GroupProgress]]] = []
        self.peer_sources: list[Callable[[], Iterable[ev.PeerProgress]]] = []
        self.load_sources: list[Callable[[], Iterable[LoadProgress]]] = []
        self.dump_sources: list[Callable[[str], ev.CollectivesDumped]] = []
        self.worker_source: Callable[[], tuple[ev.WorkerPlaced | None, str]] | None = None
        """Asked at each beat: who this process is to its cluster, and its title."""
        self.recorder = "no collectives seen yet"
        self.is_initializing = False
        """Whether `distwatch.initialize` is under way in this process."""
        self._steps = itertools.count(1)
        self._stack = threading.local()
        self._open_steps: dict[int, tuple[int, ev.StepStarted]] = {}
        self._moved_ns = time.monotonic_ns()
        self._groups: dict[str, ev.GroupCreated] = {}
        self._group_calls: list[ev.GroupCalled] = []
        self._integrations: dict[str, ev.IntegrationChanged] = {}
        self._sites: dict[tuple[CodeType, int], ev.SiteSeen] = {}
        self._worker: ev.WorkerPlaced | None = None
        self._confirmed: ev.IdentityConfirmed | None = None
        self._planned: ev.InitPlanned | None = None
        self._initialized = False
        self._raised: list[ev.FindingRaised] = []
        self._loads: list[ev.LoadPlanned] = []
        self._placed: list[ev.ModelPlaced] = []
        self._meshes: list[ev.MeshMade] = []
        self.layouts: dict[str, ev.LayoutHeld] = {}
        """Parallel states that are held now, by framework."""
        self._skipped: dict[str, ev.GradientSkipped] = {}
        self.side_worlds: dict[int, ev.SideWorldJoined] = {}
        """Meetings beside the default group, by their number."""
        self._non_member_calls: list[ev.NonMemberCalled] = []
        self._beat = 0
        self._progress: tuple[ev.GroupProgress, ...] = ()
        self._pid = os.getpid()
        self._stopping = threading.Event()
        volatile = folder.volatile
        if not volatile:
            raise OSError("neither the run folder nor /dev/shm is a tmpfs; set DISTWATCH_DIR")
        header = _file_header()
        # A run may see one pid twice; both histories stay.
        if os.path.exists(f"{volatile}/{stem}.ring"):
            stem = f"{stem}-{header.start_ticks}"
        self.started = _process_started(header, role, settings)
        self.journal = Journal(f"{volatile}/{stem}.ring", header, self._snapshot)
        self.page = PulsePage(f"{volatile}/{stem}.pulse")
        self.operations: OperationsRing | None = self.page.operations
        self.record(self.started)
        self._control = ControlSocket(f"{volatile}/{stem}.sock", self.dump)
        self._observer = ObserverStart(folder, settings)
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self._exit)
        self._thread = threading.Thread(target=self._run, name="distwatch", daemon=True)
        self._thread.start()

    def record(self, event: ev.AnyEvent) -> None:
        """Appends an event to the journal."""
        self.journal.append(event)

    # ---- steps ---------------------------------------------------------------------------

    def begin_step(
        self,
        name: str,
        *,
        kind: StepKind | None = None,
        deadline_s: float | None = None,
        label: str = "",
        total: int | None = None,
        site: ev.Site | None = None,
    ) -> int:
        """Records that a supervised call begins in this thread; returns its number.

        Args:
            kind: what it is, with its deadline; `deadline_s`, where given, can only
                shorten it (torch's own timeout, before which distwatch must speak).
        """
        limits = [self.settings.deadlines[kind.name] if kind else None, deadline_s]
        stack: list[int] = self._stack.__dict__.setdefault("steps", [])
        number = next(self._steps)
        step = ev.StepStarted(
            step=number,
            name=name,
            parent=stack[-1] if stack else None,
            deadline_s=min((limit for limit in limits if limit is not None), default=None),
            label=label,
            total=total,
            site=site,
            thread=threading.current_thread().name,
        )
        stack.append(number)
        self._moved_ns = time.monotonic_ns()
        self._open_steps[number] = (self._moved_ns, step)
        self.record(step)
        return number

    def progress_step(
        self,
        step: int,
        done: int,
        total: int | None = None,
        label: str = "",
        *,
        parameters: int = 0,
        parameters_total: int | None = None,
        bytes_done: int = 0,
        bytes_total: int | None = None,
    ) -> None:
        """Records that a step moved; from any thread."""
        self._moved_ns = time.monotonic_ns()
        self.record(
            ev.StepProgressed(
                step=step,
                done=done,
                total=total,
                label=label,
                parameters=parameters,
                parameters_total=parameters_total,
                bytes=bytes_done,
                bytes_total=bytes_total,
            )
        )

    def end_step(self, step: int, error: str | None = None) -> None:
        """Records that a step returned, or raised `error`."""
        stack: list[int] = self._stack.__dict__.setdefault("steps", [])
        if step in stack:
            del stack[stack.index(step) :]
        self._moved_ns = time.monotonic_ns()
        # A supervising thread may have ended it before the thread that began it.
        if self._open_steps.pop(step, None) is not None:
            self.record(ev.StepEnded(step=step, error=error))

    # ---- what holds ------------------------------------------------------------------------

    def hold_group(self, created: ev.GroupCreated) -> None:
        """Records a process group that this process now is a member of."""
        self._groups[created.pg_name] = created
        self.record(created)

    def join_side_world(self, joined: ev.SideWorldJoined) -> None:
        """Records a meeting beside the default group, or what became known of it."""
        self.side_worlds[joined.number] = joined
        for number in sorted(self.side_worlds)[:-16]:
            del self.side_worlds[number]
        self.record(joined)

    def name_axis(self, pg_name: str, axis: str) -> None:
        """Records along which axis of a mesh a group runs."""
        held = self._groups.get(pg_name)
        if held is not None and held.axis != axis:
            self.hold_group(msgspec.structs.replace(held, axis=axis))

    def retime_group(self, pg_name: str, timeout_s: float) -> None:
        """Records that a group's timeout was set after it was made."""
        held = self._groups.get(pg_name)
        if held is not None and held.timeout_s != timeout_s:
            self.hold_group(msgspec.structs.replace(held, timeout_s=timeout_s))

    def release_group(self, pg_name: str) -> None:
        """Records that a group was destroyed; all of them for ''."""
        if pg_name:
            self._groups.pop(pg_name, None)
        else:
            self._groups.clear()
            self._group_calls.clear()
            self._meshes.clear()
            self.layouts.clear()
            self._initialized = False
        self.record(ev.GroupDestroyed(pg_name=pg_name))

    def call_group(self, called: ev.GroupCalled) -> None:
        """Records one call of `new_group`."""
        if len(self._group_calls) < 4096:
            self._group_calls.append(called)
        self.record(called)

    @property
    def planned(self) -> ev.InitPlanned | None:
        """The newest initialization of this process."""
        return self._planned

    def plan_init(self, planned: ev.InitPlanned) -> ev.InitPlanned:
        """Records what this process is about to initialize with, under its running number."""
        number = (self._planned.number if self._planned else 0) + 1
        self._planned = msgspec.structs.replace(planned, number=number)
        self._initialized = False
        self.record(self._planned)
        return self._planned

    def plan_load(self, planned: ev.LoadPlanned) -> None:
        """Records what a model load was asked for."""
        self._loads = [*self._loads[-7:], planned]
        self.record(planned)

    def place_model(self, placed: ev.ModelPlaced) -> None:
        """Records where a loaded model lies."""
        self._placed = [*self._placed[-7:], placed]
        self.record(placed)

    def hold_mesh(self, made: ev.MeshMade) -> None:
        """Records a device mesh."""
        if len(self._meshes) < 64:
            self._meshes.append(made)
        self.record(made)

    def hold_layout(self, held: ev.LayoutHeld) -> None:
        """Records a framework's parallel state."""
        self.layouts[held.framework] = held
        self.record(held)

    def release_layout(self, framework: str) -> None:
        """Records that a framework's parallel state was taken down."""
        if self.layouts.pop(framework, None) is not None:
            self.record(ev.LayoutReleased(framework=framework))

    def note_skipped(self, skipped: ev.GradientSkipped) -> None:
        """Records that backward steps were left out, in place of what was said before."""
        self._skipped[skipped.framework] = skipped
        self.record(skipped)

    def note_non_member(self, called: ev.NonMemberCalled) -> None:
        """Records a call on a group without this rank, once for each place."""
        if called not in self._non_member_calls and len(self._non_member_calls) < 64:
            self._non_member_calls.append(called)
            self.record(called)

    def settle_endpoint(self, endpoint: str) -> None:
        """Records where the initialization that was planned last will meet."""
        if self._planned is not None:
            self._planned = msgspec.structs.replace(self._planned, endpoint=endpoint)
            self.record(self._planned)

    def raise_finding(self, finding: Finding, step: str = "") -> None:
        """Records a diagnosis that this process came to by itself."""
        raised = ev.FindingRaised(finding=finding, step=step)
        self._raised = [*self._raised[-15:], raised]
        self.record(raised)

    def confirm(self, global_rank: int, world_size: int, local_rank: int | None = None) -> None:
        """Records torch's own word on who this is."""
        self._confirmed = ev.IdentityConfirmed(
            global_rank=global_rank, world_size=world_size, local_rank=local_rank
        )
        self._initialized = True
        self.record(self._confirmed)

    def set_integration(self, name: str, status: str, reason: str = "", version: str = "") -> None:
        """Records an integration's status where it changed."""
        changed = ev.IntegrationChanged(name=name, status=status, reason=reason, version=version)  # type: ignore[arg-type]
        if self._integrations.get(name) != changed:
            self._integrations[name] = changed
            self.record(changed)

    def site_number(self, code: CodeType, line: int) -> int:
        """A small number for a place in the source; 0 when there are too many of them."""
        seen = self._sites.get((code, line))
        if seen is None:
            if len(self._sites) >= SITES_KEPT:
                return 0
            site = ev.Site(file=code.co_filename, line=line, function=code.co_name)
            seen = self._sites[code, line] = ev.SiteSeen(number=len(self._sites) + 1, site=site)
            self.record(seen)
        return seen.number

    # ---- the thread ------------------------------------------------------------------------

    def dump(self, reason: str) -> None:
        """Journals the newest entries of every recorder."""
        for source in list(self.dump_sources):
            if (dumped := guard("dump", source, reason)) is not None:
                self.record(dumped)

    def beat(self) -> None:
        """Writes one pulse."""
        groups: list[ev.GroupProgress] = []
        for source in list(self.progress_sources):
            groups += guard("progress", source) or ()
        peers: list[ev.PeerProgress] = []
        for peer_source in list(self.peer_sources):
            peers += guard("peers", peer_source) or ()
        loads: list[LoadProgress] = []
        for load_source in list(self.load_sources):
            loads += guard("loads", load_source) or ()
        title = self._look_at_worker()
        self._progress = tuple(groups)
        self._beat += 1
        self.page.write(
            ev.Pulse(
                beat=self._beat,
                beat_ns=time.monotonic_ns(),
                groups=self._progress,
                peers=tuple(peers),
                loads=tuple(loads),
                recorder=self.recorder,
                dropped=self.journal.dropped,
                title=title,
            )
        )
        self.journal.drain()

    def _look_at_worker(self) -> str:
        if self.worker_source is None:
            return ""
        placed, title = guard("worker", self.worker_source) or (None, "")
        if placed is not None and placed != self._worker:
            self._worker = placed
            self.record(placed)
        return title

    def _end_if_hung(self) -> None:
        from distwatch.agent.ending import end_rank
        from distwatch.agent.overdue import overdue

        steps = [step for _, step in list(self._open_steps.values())]
        if why := overdue(self._progress, steps, self._moved_ns, self.settings.deadlines):
            end_rank(self, why)

    def _run(self) -> None:
        guard("observer start", self._observer.ensure)
        while not self._stopping.is_set():
            guard("beat", self.beat)
            if self.settings.on_hang == "abort":
                guard("abort", self._end_if_hung)
            guard("observer start", self._observer.ensure)
            if guard("control", self._control.serve, BEAT_S) is None:
                self._stopping.wait(BEAT_S)

    # ---- ends ------------------------------------------------------------------------------

    def _exit(self) -> None:
        if os.getpid() == self._pid:
            self.record(ev.ProcessEnding())
            guard("last beat", self.beat)
            self._stopping.set()
            self._control.close()

    def _forked(self) -> None:
        # The child is not this rank: two writers would destroy the ring, and whoever connects
        # to an inherited socket would wait for ever.
        global _current
        _current = None
        self.journal.forget()
        if self.operations is not None:
            self.operations.forget()
        self.operations = None
        self.progress_sources.clear()
        self.peer_sources.clear()
        self.load_sources.clear()
        self.worker_source = None
        self.dump_sources.clear()
        self._control.abandon()

    def _snapshot(self, dropped: int) -> ev.Snapshot:
        return ev.Snapshot(
            started=self.started,
            worker=self._worker,
            confirmed=self._confirmed,
            integrations=tuple(self._integrations.values()),
            groups=tuple(self._groups.values()),
            group_calls=tuple(self._group_calls[-256:]),
            planned=self._planned,
            raised=tuple(self._raised),
            loads=tuple(self._loads),
            placed=tuple(self._placed),
            meshes=tuple(self._meshes),
            layouts=tuple(self.layouts.values()),
            side_worlds=tuple(self.side_worlds.values()),
            skipped=tuple(self._skipped.values()),
            initialized=self._initialized,
            steps=tuple(self._open_steps.values()),
            sites=tuple(list(self._sites.values())[-512:]),
            dropped=dropped,
        )


def _file_header() -> FileHeader:
    pid, host = os.getpid(), host_name()
    ticks = start_ticks(pid)
    return FileHeader(
        stream=process_key(host, pid, ticks),
        host=host,
        pid=pid,
        start_ticks=ticks,
        boot_id=boot_id(),
        wall_offset_ns=time.time_ns() - time.monotonic_ns(),
        salt=random.SystemRandom().getrandbits(32),
        capacity=CAPACITY,
    )


def _process_started(header: FileHeader, role: str, settings: Settings) -> ev.ProcessStarted:
    return ev.ProcessStarted(
        host=header.host,
        pid=header.pid,
        start_ticks=header.start_ticks,
        ppid=os.getppid(),
        role=role if role in ("rank", "launcher") else "other",  # type: ignore[arg-type]
        identity=identify(os.environ),
        command=redact_command(getattr(sys, "orig_argv", sys.argv)[:32]),
        python=sys.version.split()[0],
        cwd=_cwd(),
        distwatch_version=__version__,
        deadlines=settings.deadlines,
    )


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


_current: Agent | None = None
_on_start: list[Callable[[Agent], None]] = []
_failed_pid: int | None = None
_starting = threading.Lock()


def current() -> Agent | None:
    """The running agent of this process, or None."""
    return _current


def when_started(attach: Callable[[Agent], None]) -> None:
    """Calls `attach` with this process's agent: now where it runs, else once it starts."""
    if attach not in _on_start:
        _on_start.append(attach)
    if _current is not None:
        attach(_current)


def start() -> Agent | None:
    """Starts the agent once per process; None where it is off or finds no place. Never raises."""
    global _current, _failed_pid
    if _current is not None or _failed_pid == os.getpid():
        return _current
    # A signal handler or an import inside the start must not start a second one or wait.
    if not _starting.acquire(blocking=False):
        return None
    try:
        settings = read_settings()
        if settings.enabled is False:
            return None
        folder, stem, role = enter_run(os.environ)
        _current = Agent(settings, folder, stem, role)
        for attach in _on_start:
            attach(_current)
    except Exception as error:
        _failed_pid = os.getpid()
        log.warning("distwatch: off in process %d: %s", os.getpid(), error)
    finally:
        _starting.release()
    return _current
