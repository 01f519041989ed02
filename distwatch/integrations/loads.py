"""Model loads in progress in this process, as the hooks of all libraries report them.

A load belongs to the thread that made the call; its worker threads find it, too. A call that may
hold the GIL is journaled before it runs, since nothing in this process can run during the call.
safetensors does so while it opens a file and faults it in
(https://github.com/safetensors/safetensors/issues/541).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque

from distwatch.agent.core import Agent
from distwatch.agent.guard import caller_site
from distwatch.agent.initialization.supervision import Supervision
from distwatch.integrations.load_deadlines import supervise_load
from distwatch.integrations.load_waits import Waits, redacted
from distwatch.integrations.registry import folders_of, running_agent
from distwatch.state.events import LoadPlanned, ModelPlaced
from distwatch.state.loads import LoadArguments, LoadProgress, Placement
from distwatch.state.steps import LOAD

LIBRARIES = ("transformers", "torch", "accelerate", "huggingface_hub", "peft", "safetensors")
PROGRESS_EVERY_NS = 250_000_000
RATE_OVER = 10
FILES_KNOWN = 1_000


class Load:
    """One load in progress.

    Attributes:
        thread: the one that made the call; the load's phases are steps of this thread.
        strangers: threads that existed before the load, so they are not its workers: their requests
            and locks have nothing to do with it.
        adopts: whether the next call of the same thread belongs to this load (an Auto class's
            `from_pretrained` calls the model class's).
        opened: each checkpoint file and its index in order: some are opened several times.
        reading: by thread, the file from which it reads a tensor, and since when.
        file_of: by the identity of a tensor that is not read yet, its file.
        supervision: what ends it at its deadline, where the hooks have to.
    """

    def __init__(self, agent: Agent, step: int, *, adopts: bool = False) -> None:
        self.agent = agent
        self.step = step
        self.thread = threading.get_ident()
        self.strangers = frozenset(thread.native_id for thread in threading.enumerate())
        self.adopts = adopts
        self.supervision: Supervision | None = None
        self.counting: int | None = None
        self.opened: dict[str, int] = {}
        self.files: int | None = None
        self.file_of: dict[int, str] = {}
        self.reading: dict[int, tuple[str, int]] = {}
        self.parameters = 0
        self.parameters_total: int | None = None
        self.bytes = 0
        self.bytes_total: int | None = None
        self._numbered = 0
        self._file = ""
        self.waits = Waits()
        self._seen_fetched = 0
        self._model_step: int | None = None
        self._told_ns = 0
        self._phases: list[tuple[int, str]] = []
        self._samples: deque[tuple[int, int]] = deque(maxlen=RATE_OVER)
        self.generation = ""

    # ---- phases: called in the load's own thread ---------------------------------------------

    @property
    def is_mine(self) -> bool:
        """Whether this thread made the call."""
        return self.thread == threading.get_ident()

    def begin_phase(self, name: str, *, total: int | None = None) -> int:
        """A part of the load begins; this also ends the `model` step, which has no end of its own."""
        self.end_building()
        step = self.agent.begin_step(name, kind=LOAD, total=total)
        self._phases.append((step, name))
        return step

    @property
    def phase(self) -> str:
        """The innermost phase under way."""
        return self._phases[-1][1] if self._phases else ""

    def end_phase(self, step: int, error: BaseException | None) -> None:
        """That part has ended."""
        self._phases = [phase for phase in self._phases if phase[0] != step]
        if step == self.counting:
            self.tell()
            self.counting = None
            self.file_of = {}
        self.agent.end_step(step, redacted(error))

    def begin_counting(self, step: int, files: int | None) -> None:
        """Counts files and parameters from now on, as progress of that step."""
        self.counting, self.files = step, files
        self.opened, self._numbered, self.parameters, self.bytes = {}, 0, 0, 0
        self._samples.clear()

    @property
    def is_building(self) -> bool:
        return self._model_step is not None

    def begin_building(self) -> None:
        """The model's modules are being built; the next phase ends this one."""
        if self._model_step is None:
            self._model_step = self.agent.begin_step("model", kind=LOAD)

    def end_building(self) -> None:
        if self._model_step is not None:
            self.agent.end_step(self._model_step)
            self._model_step = None

    # ---- progress: called in any thread ------------------------------------------------------

    def open_file(self, path: str) -> None:
        """A checkpoint file is about to be opened or read, which may never return."""
        if self.counting is None:
            return
        if path not in self.opened:
            self._numbered += 1
            if len(self.opened) < FILES_KNOWN:
                self.opened[path] = self._numbered
        self._file = path
        # Offloaded weights are one file each: of very many, not all are journaled.
        if self._numbered <= FILES_KNOWN or self._is_time():
            self.tell()

    def read_tensor(self, tensor: object) -> None:
        """This thread is about to read a tensor from its file."""
        path = self.file_of.get(id(tensor))
        if path is None:
            return
        self.reading[threading.get_ident()] = (path, time.monotonic_ns())
        # Journaled when the file changes: while the GIL is held there is no later chance.
        if path != self._file:
            self.open_file(path)

    def place(self, size: int) -> None:
        """A tensor of this size has been placed."""
        self.parameters += 1
        self.bytes += size
        if self._is_time():
            self.tell()

    def _is_time(self) -> bool:
        return time.monotonic_ns() - self._told_ns >= PROGRESS_EVERY_NS

    def tell(self) -> None:
        """Journals the progress."""
        if self.counting is None:
            return
        self._told_ns = time.monotonic_ns()
        self.agent.progress_step(
            self.counting,
            self.opened.get(self._file, self._numbered),
            total=self.files,
            label=os.path.basename(self._file),
            parameters=self.parameters,
            parameters_total=self.parameters_total,
            bytes_done=self.bytes,
            bytes_total=self.bytes_total,
        )

    # ---- what its threads wait for -----------------------------------------------------------

    def end_wait(self, token: int, error: BaseException | None = None) -> None:
        """A thread's wait, begun with `waits.begin`, is over."""
        if (wait := self.waits.end(token, error)) is not None:
            self._tell_fetching(wait.what, self.waits.fetched)

    def _tell_fetching(self, what: str, fetched: int) -> None:
        step = self._phases[-1][0] if self._phases else self.step
        name = what.rpartition("/")[2]
        self.agent.progress_step(step, self.waits.answers, label=name, bytes_done=fetched)

    def progress(self) -> LoadProgress:
        """For the pulse; called by the agent's thread, twice a second."""
        self._follow_downloads()
        now = time.monotonic_ns()
        done = self.bytes if self.counting is not None else self._seen_fetched
        self._samples.append((now, done))
        # The load's own thread may have cleared the samples.
        first_ns, first = next(iter(tuple(self._samples)), (now, done))
        lasted_s = (now - first_ns) / 1e9
        return LoadProgress(
            step=self.step,
            parameters=self.parameters,
            parameters_total=self.parameters_total,
            bytes=done,
            bytes_total=self.bytes_total if self.counting is not None else None,
            bytes_per_s=max(0.0, (done - first) / lasted_s) if lasted_s > 0 else 0.0,
            outstanding=self.waits.outstanding(list(self.reading.values())),
        )

    def _follow_downloads(self) -> None:
        """Records arriving bytes as progress, since no hook sees them."""
        downloads = self.waits.downloads()
        fetched = self.waits.fetched + sum(wait.fetched() for wait in downloads)
        if fetched > self._seen_fetched:
            self._seen_fetched = fetched
            if downloads:
                self._tell_fetching(downloads[0].what, fetched)


_loads: list[Load] = []
_lock = threading.Lock()


def current_load() -> Load | None:
    """This thread's innermost load; in a worker thread, which has none, the newest one before it."""
    loads = list(_loads)  # this runs for every tensor
    if not loads:
        return None
    mine = threading.get_ident()
    own = next((load for load in reversed(loads) if load.thread == mine), None)
    if own is not None:
        return own
    thread = threading.get_native_id()
    return next((load for load in reversed(loads) if thread not in load.strangers), None)


def begin_load(
    name: str,
    arguments: LoadArguments,
    *,
    adopts: bool = False,
    deadline_s: float | None = None,
    ends: bool = True,
) -> Load | None:
    """A load begins in this thread; None where it is part of the current load, or nobody observes.

    Args:
        name: of the call, one of `LOAD.calls`.
        adopts: whether the next such call in this thread belongs to this load.
        deadline_s: without progress; default: the setting for loads.
        ends: whether DISTWATCH_ON_HANG=raise ends it at the deadline; not where the caller does so.
    """
    agent = running_agent()
    if agent is None:
        return None
    outer = next((load for load in reversed(list(_loads)) if load.is_mine), None)
    if outer is not None and outer.adopts:
        outer.adopts = adopts
        return None
    step = agent.begin_step(
        name,
        kind=LOAD if deadline_s is None else None,
        deadline_s=deadline_s,
        label=arguments.checkpoint,
        site=caller_site(folders_of(*LIBRARIES)),
    )
    load = Load(agent, step, adopts=adopts)
    agent.record(LoadPlanned(step=step, arguments=arguments))
    with _lock:
        _loads.append(load)
        if _progress not in agent.load_sources:
            agent.load_sources.append(_progress)
    if ends and outer is None and agent.settings.on_hang == "raise":
        limit_s = deadline_s or agent.settings.deadlines[LOAD.name]
        call = f"{name}({arguments.checkpoint})"
        load.supervision = supervise_load(
            call, limit_s, lambda: load.phase or name, port=None, asked=False
        )
        load.supervision.__enter__()
    return load


def end_load(load: Load, placement: Placement | None, error: BaseException | None) -> None:
    """The call has returned a model with that placement, or raised."""
    if load.supervision is not None:
        load.supervision.release()
    with _lock:
        if load in _loads:
            _loads.remove(load)
    load.end_building()
    if placement is not None:
        load.agent.record(ModelPlaced(step=load.step, placement=placement))
    load.agent.end_step(load.step, redacted(error))


def forget_loads() -> None:
    """Forgets all loads in progress."""
    _loads.clear()


def _forked() -> None:
    # The parent's loads are not the child's, and another thread may have held the lock.
    global _lock
    _lock = threading.Lock()
    forget_loads()


os.register_at_fork(after_in_child=_forked)


def _progress() -> list[LoadProgress]:
    return [load.progress() for load in list(_loads)]


def versions() -> dict[str, str]:
    """Versions of the loaded libraries that take part in loading."""
    return {
        name: str(version)
        for name in LIBRARIES
        if (version := getattr(sys.modules.get(name), "__version__", None)) is not None
    }
