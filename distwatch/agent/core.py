"""The agent: one per process, records what the hooks see and writes a pulse while it can.

Nothing here judges. Deadlines are written down for the observer to judge, because a rank that hangs
cannot report itself.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

import msgspec

from distwatch.agent.control import ControlSocket
from distwatch.agent.ending import EXIT_CODE, overdue
from distwatch.agent.entry import enter_run
from distwatch.agent.guard import guard, tell_failures_to
from distwatch.agent.observer_start import ObserverStart
from distwatch.agent.own_threads import OwnThreads
from distwatch.agent.pulse import OperationsRing
from distwatch.agent.recorder import Recorder
from distwatch.agent.ring_budget import NoRoom, open_memory
from distwatch.agent.start_record import file_header, process_started
from distwatch.agent.training_steps import TrainingSteps
from distwatch.runfolder import RunFolder, is_alive
from distwatch.settings import ENDS_CULPRITS, Settings, read_settings
from distwatch.state import events as ev
from distwatch.state.loads import LoadProgress
from distwatch.visible_text import say

T = TypeVar("T")
BEAT_S = 0.5
log = logging.getLogger("distwatch")


class Agent(Recorder):
    """Records this process's facts. Its methods never raise into the host's code path."""

    _companion = (0, 0)
    _when_left: Callable[[], None] | None = None

    def __init__(self, settings: Settings, folder: RunFolder, stem: str, role: str) -> None:
        """Creates journal and pulse and starts the beating thread.

        Raises:
            OSError: there is no tmpfs for a safe memory map.
        """
        self.settings = settings
        self.folder = folder
        self.progress_sources: list[Callable[[], Iterable[ev.GroupProgress]]] = []
        self.peer_sources: list[Callable[[], Iterable[ev.PeerProgress]]] = []
        self.load_sources: list[Callable[[], Iterable[LoadProgress]]] = []
        self.dump_sources: list[Callable[[str], ev.CollectivesDumped]] = []
        self.worker_source: Callable[[], tuple[ev.WorkerPlaced | None, str]] | None = None
        """Called at each beat: this process's ids in its cluster, and its title."""
        self.training = TrainingSteps()
        self.recorder = "no collectives seen yet"
        self.is_initializing = False
        """Whether `distwatch.initialize` is under way in this process."""
        self._beat = 0
        self._progress: tuple[ev.GroupProgress, ...] = ()
        self._pid = os.getpid()
        self._stopping = threading.Event()
        header = file_header(settings.ring)
        volatile = folder.volatile
        # One pid may occur twice in a run; both journals are kept.
        if os.path.exists(f"{volatile}/{stem}.ring") or os.path.exists(folder.journal(stem)):
            stem = f"{stem}-{header.start_ticks}"
        journal, self.page, why_smaller = open_memory(folder, stem, header)
        self.started = process_started(header, role, settings)
        super().__init__(journal, settings.deadlines)
        self.operations: OperationsRing | None = self.page.operations
        self.record(self.started)
        if why_smaller:
            self.record(
                ev.NotObserved(
                    host=header.host, what="memory", why=why_smaller, process=header.stream
                )
            )
        self._own_threads = OwnThreads(self.record)
        self._control = self._listen_at(f"{volatile}/{stem}.sock")
        self._observer = ObserverStart(folder, settings)
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self._exit)
        self._thread = threading.Thread(target=self._run, name="distwatch", daemon=True)
        self._thread.start()

    def _listen_at(self, path: str) -> ControlSocket:
        return ControlSocket(path, self._asked_to_dump, self._ask_to_leave, self._ask_to_end)

    # ---- the thread ------------------------------------------------------------------------

    def dump(self, reason: str) -> None:
        """Journals the newest entries of every recorder."""
        for source in list(self.dump_sources):
            if (dumped := guard("dump", source, reason)) is not None:
                self.record(dumped)

    def _asked_to_dump(self, reason: str) -> None:
        """Others wait for this process, or its observer suspects so: that is worth a closer look at it."""
        self.dump(reason)
        guard("own threads", self._own_threads.look_closely)

    def beat(self) -> None:
        """Writes one pulse."""
        title = self._look_at_worker()
        self._progress = _gather("progress", self.progress_sources)
        self._beat += 1
        self.page.write(
            ev.Pulse(
                beat=self._beat,
                beat_ns=time.monotonic_ns(),
                groups=self._progress,
                peers=_gather("peers", self.peer_sources),
                loads=_gather("loads", self.load_sources),
                recorder=self.recorder,
                dropped=self.journal.dropped,
                title=title,
                training=self.training.seen(),
            )
        )
        self.journal.drain()

    def _look_at_worker(self) -> str:
        if self.worker_source is None:
            return ""
        placed, title = guard("worker", self.worker_source) or (None, "")
        if placed is not None:
            self.record_news(placed)
        return title

    def _ask_to_end(self, why: str) -> None:
        """Ends this rank for the observer, which knows the culprit; only where its user asked for that."""
        if self.settings.on_hang in ENDS_CULPRITS and self._when_left is None:
            self.end_rank(why)

    def _end_if_hung(self) -> None:
        """Without an observer nobody knows the culprit: whoever has waited too long ends itself."""
        steps = self.retained.all(ev.StepStarted)
        if why := overdue(self._progress, steps, self.moved_ns, self.settings.deadlines):
            self.end_rank(why)

    def end_rank(self, why: object) -> NoReturn:
        """Records everything, prints why, and ends the process at once.

        A hanging call cannot be left in any other way, so Python's own exit does not run.
        """
        self.dump("abort")
        self.record(ev.ProcessEnding(reason=f"{ev.GAVE_UP}: {why}"[:500]))
        self.beat()
        say(f"{why}\ndistwatch: {ev.GAVE_UP} ends pid {os.getpid()} with exit code {EXIT_CODE}")
        os._exit(EXIT_CODE)

    def _run(self) -> None:
        _name_thread()
        guard("observer start", self._observer.ensure)
        while not self._stopping.is_set():
            guard("beat", self.beat)
            guard("own threads", self._own_threads.look)
            if self.settings.on_hang in ENDS_CULPRITS and not self._observer.is_there:
                guard("abort", self._end_if_hung)
            guard("leave", self._leave_if_alone)
            guard("observer start", self._observer.ensure)
            if guard("control", self._control.serve, BEAT_S) is None:
                self._stopping.wait(BEAT_S)

    def accompany(self, pid: int, ticks: int, when_left: Callable[[], None]) -> None:
        """Calls `when_left` when the observer asks the agent to leave, or when that other process has ended.

        Args:
            when_left: runs in a thread of its own, and may end with `leave`.
        """
        self._companion, self._when_left = (pid, ticks), when_left
        self.started = msgspec.structs.replace(self.started, attached=True)
        self.record(self.started)

    def _ask_to_leave(self) -> bool:
        when_left, self._when_left = self._when_left, None
        if when_left is None:
            return False
        threading.Thread(
            target=guard, args=("leave", when_left), name="distwatch", daemon=True
        ).start()
        return True

    def _leave_if_alone(self) -> None:
        if self._when_left is not None and not is_alive(*self._companion):
            self._ask_to_leave()

    def use_settings(self, settings: Settings) -> None:
        """Other deadlines hold from now on."""
        self.settings = settings
        self.change_deadlines(settings.deadlines)
        self.started = msgspec.structs.replace(
            self.started, deadlines=settings.deadlines, attached=False
        )
        self.record(self.started)

    def leave(self) -> None:
        """Takes the agent out of a process that goes on. Not for the agent's own thread."""
        global _current
        self._stopping.set()
        self._thread.join(4 * BEAT_S)
        self._own_threads.unchain_hook()
        self.record(ev.AgentLeft())
        self._control.close()
        atexit.unregister(self._exit)
        self.journal.forget()
        self.page.forget()
        self.operations = None
        _current = None

    # ---- ends ------------------------------------------------------------------------------

    def _exit(self) -> None:
        if os.getpid() == self._pid:
            self.record(ev.ProcessEnding())
            guard("last beat", self.beat)
            self._stopping.set()
            self._control.close()

    def _forked(self) -> None:
        # The child is not this rank: two writers would destroy the ring, and a client of an
        # inherited socket would wait for ever.
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
        self.training = TrainingSteps()
        self.dump_sources.clear()
        self._control.close(remove=False)


def _gather(hook: str, sources: Iterable[Callable[[], Iterable[T]]]) -> tuple[T, ...]:
    return tuple(one for source in list(sources) for one in guard(hook, source) or ())


def _name_thread() -> None:
    # By this name the observer tells what our thread reads from what the job does, and `top -H` shows it.
    with (
        contextlib.suppress(OSError),
        open(f"/proc/self/task/{threading.get_native_id()}/comm", "wb") as file,
    ):
        file.write(b"distwatch")


_current: Agent | None = None
_on_start: list[Callable[[Agent], None]] = []
_failed_pid: int | None = None
_starting = threading.Lock()


def current() -> Agent | None:
    """The running agent of this process, or None."""
    return _current


def when_started(attach: Callable[[Agent], None]) -> None:
    """Calls `attach` with this process's agent: now if it is running, else once it starts."""
    if attach not in _on_start:
        _on_start.append(attach)
    if _current is not None:
        attach(_current)


def start() -> Agent | None:
    """Starts the agent once per process; None where it is off or cannot start. Never raises."""
    global _current, _failed_pid
    if _current is not None or _failed_pid == os.getpid():
        return _current
    # A signal handler or an import during the start must not start a second agent, or wait.
    if not _starting.acquire(blocking=False):
        return None
    try:
        settings = read_settings()
        if settings.enabled is False:
            return None
        folder, stem, role = enter_run(os.environ)
        _current = Agent(settings, folder, stem, role)
        tell_failures_to(_current.record)
        for attach in _on_start:
            attach(_current)
    except NoRoom:
        _failed_pid = os.getpid()
        # What the dead hold is freed by an observer, and an agent would have started one.
        observer = ObserverStart(folder, settings)
        threading.Thread(
            target=guard, args=("observer start", observer.ensure), name="distwatch", daemon=True
        ).start()
    except Exception as error:
        _failed_pid = os.getpid()
        log.warning("distwatch: off in process %d: %s", os.getpid(), error)
    finally:
        _starting.release()
    return _current
