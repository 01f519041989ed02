"""Model loads under way in this process: what the hooks of every library tell of them.

A load belongs to the thread that made the call; its worker threads find it, too. Whatever may
hold the GIL (safetensors does, while it opens and faults in a file) is journaled before it is
called: afterwards nobody here can say anything.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from distwatch.agent.core import Agent
from distwatch.agent.guard import caller_site, error_text
from distwatch.hooks.observed import Observer, observe, observe_method
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import folders_of, running_agent
from distwatch.redaction import redact_text
from distwatch.state.events import LoadPlanned, ModelPlaced
from distwatch.state.loads import LoadArguments, LoadProgress, Outstanding, Placement, Waiting

LIBRARIES = ("transformers", "torch", "accelerate", "huggingface_hub", "peft", "safetensors")
PROGRESS_EVERY_NS = 250_000_000
RATE_OVER = 10
OUTSTANDING_TOLD = 4


class Wait:
    """One thing that a thread has begun: a request, a download, a lock, a read."""

    def __init__(
        self, waiting: Waiting, what: str, *, descriptor: int = -1, path: str = "", size: int = 0
    ) -> None:
        """
        Args:
            descriptor: of the file that a download writes; its position is how far it is.
            path: of that file, where somebody else than Python writes it.
            size: bytes that it will have.
        """
        self.waiting = waiting
        self.what = what
        self.thread = threading.get_ident()
        self.since_ns = time.monotonic_ns()
        self.attempts = 1
        self.last_error = ""
        self.has_failed = False
        self.size = size
        self._descriptor = descriptor
        self._path = path

    def fetched(self) -> int:
        """Bytes that a download has written so far; 0 where that cannot be seen."""
        try:
            if self._descriptor >= 0:
                # The kernel's own number: no file system is asked, which might not answer.
                with open(f"/proc/self/fdinfo/{self._descriptor}", encoding="ascii") as info:
                    return int(info.readline().split()[1])
            return os.stat(self._path).st_size if self._path else 0
        except (OSError, ValueError, IndexError):
            return 0


class Load:
    """One load under way.

    Attributes:
        thread: that made the call; its phases are steps of this thread.
        strangers: threads that were there before it, and so are no workers of it: what they ask
            of some server or lock has nothing to do with it.
        adopts: whether the next call of the same thread is this load's own (an Auto class's
            `from_pretrained` calls the model class's).
        opened: each checkpoint file, and which one in order it is: some are opened several times.
        reading: by thread, the file that it reads a tensor of, and since when.
        file_of: by the identity of a tensor that is not read yet, the file that it lies in.
    """

    def __init__(self, agent: Agent, step: int, name: str = "", *, adopts: bool = False) -> None:
        self.agent = agent
        self.name = name
        self.step = step
        self.thread = threading.get_ident()
        self.strangers = frozenset(thread.native_id for thread in threading.enumerate())
        self.adopts = adopts
        self.counting: int | None = None
        self.opened: dict[str, int] = {}
        self.files: int | None = None
        self.file_of: dict[int, str] = {}
        self.reading: dict[int, tuple[str, int]] = {}
        self.parameters = 0
        self.parameters_total: int | None = None
        self.bytes = 0
        self.bytes_total: int | None = None
        self._file = ""
        self._fetched = self._seen_fetched = 0
        self._answers = 0
        self._model_step: int | None = None
        self._told_ns = 0
        self._phases: list[tuple[int, str]] = []
        self._waits: dict[int, Wait] = {}
        self._tokens = itertools.count()
        self._samples: deque[tuple[int, int]] = deque(maxlen=RATE_OVER)
        self.generation = ""

    # ---- phases: called in the load's own thread ---------------------------------------------

    @property
    def is_mine(self) -> bool:
        """Whether this thread made the call."""
        return self.thread == threading.get_ident()

    def begin_phase(self, name: str, *, total: int | None = None, label: str = "") -> int:
        """A part of the load began; ends the building of the model, which has no end of its own."""
        self.end_building()
        step = self.agent.begin_step(name, deadline_kind="load", total=total, label=label)
        self._phases.append((step, name))
        return step

    @property
    def phase(self) -> str:
        """The innermost phase under way."""
        return self._phases[-1][1] if self._phases else ""

    def end_phase(self, step: int, error: BaseException | None) -> None:
        """That part has ended, well or with an error."""
        self._phases = [phase for phase in self._phases if phase[0] != step]
        if step == self.counting:
            self.tell()
            self.counting = None
            self.file_of = {}
        self.agent.end_step(step, _redacted(error))

    def begin_counting(self, step: int, files: int | None) -> None:
        """Files and parameters are counted from now on, as progress of that step."""
        self.counting, self.files = step, files
        self.opened, self.parameters, self.bytes = {}, 0, 0
        self._samples.clear()

    @property
    def is_building(self) -> bool:
        return self._model_step is not None

    def begin_building(self) -> None:
        """The model's modules are being made; the next phase ends it."""
        if self._model_step is None:
            self._model_step = self.agent.begin_step("model", deadline_kind="load")

    def end_building(self) -> None:
        if self._model_step is not None:
            self.agent.end_step(self._model_step)
            self._model_step = None

    # ---- progress: called in any thread ------------------------------------------------------

    def open_file(self, path: str) -> None:
        """A checkpoint file is about to be opened or read: it may never come back."""
        if self.counting is None:
            return
        self.opened.setdefault(path, len(self.opened) + 1)
        self._file = path
        self.tell()

    def read_tensor(self, tensor: object) -> None:
        """A tensor is about to be read, by this thread, from the file that it lies in."""
        path = self.file_of.get(id(tensor))
        if path is None:
            return
        self.reading[threading.get_ident()] = (path, time.monotonic_ns())
        # Journaled where it is another file than the last one: with the GIL held there is no later.
        if path != self._file:
            self.open_file(path)

    def place(self, size: int) -> None:
        """A tensor of so many bytes has its place."""
        self.parameters += 1
        self.bytes += size
        if self.counting is not None and time.monotonic_ns() - self._told_ns >= PROGRESS_EVERY_NS:
            self.tell()

    def tell(self) -> None:
        """Journals how far it is."""
        if self.counting is None:
            return
        self._told_ns = time.monotonic_ns()
        self.agent.progress_step(
            self.counting,
            self.opened.get(self._file, 0),
            total=self.files,
            label=os.path.basename(self._file),
            parameters=self.parameters,
            parameters_total=self.parameters_total,
            bytes_done=self.bytes,
            bytes_total=self.bytes_total,
        )

    # ---- what threads of it are in -----------------------------------------------------------

    def begin_wait(self, wait: Wait) -> int:
        """A thread is about to wait for something; the token for `end_wait`."""
        token = next(self._tokens)
        # The same again is one wait: locks are polled, and requests repeated.
        for earlier in list(self._waits.values()):
            if (earlier.waiting, earlier.what) == (wait.waiting, wait.what) and earlier.has_failed:
                wait.since_ns, wait.attempts = earlier.since_ns, earlier.attempts + 1
                wait.last_error = earlier.last_error
        self._forget_failed(wait.what)
        self._waits[token] = wait
        return token

    def is_downloading(self, what: str) -> bool:
        """Whether that body is on its way already."""
        waits = list(self._waits.values())
        return any((w.waiting, w.what, w.has_failed) == ("download", what, False) for w in waits)

    def end_wait(self, token: int, error: BaseException | None = None) -> None:
        """It has come back. What failed stays in sight until something else is begun."""
        wait = self._waits.pop(token, None)
        if wait is None or wait.waiting == "file":
            return
        if error is not None:
            wait.last_error, wait.has_failed = (_redacted(error) or "")[:200], True
            self._waits[token] = wait
            return
        if wait.waiting == "request" and self._resumes_download(wait):
            return
        self._answers += 1
        if wait.waiting == "download":
            self._fetched += wait.size or wait.fetched()
        self._tell_fetching(wait.what, self._fetched)

    def _resumes_download(self, request: Wait) -> bool:
        """A body that stops is asked for again and again: only its bytes are progress."""
        mine = [w for w in list(self._waits.values()) if w.thread == request.thread]
        return any(wait.waiting == "download" for wait in mine)

    def _tell_fetching(self, what: str, fetched: int) -> None:
        step = self._phases[-1][0] if self._phases else self.step
        name = what.rpartition("/")[2]
        self.agent.progress_step(step, self._answers, label=name, bytes_done=fetched)

    def _forget_failed(self, what: str) -> None:
        for token, earlier in list(self._waits.items()):
            if earlier.has_failed and (earlier.what == what or earlier.waiting == "request"):
                self._waits.pop(token, None)

    def progress(self) -> LoadProgress:
        """For the pulse; called by the agent's thread, twice a second."""
        waits = sorted(self._waits.values(), key=lambda wait: wait.since_ns)
        self._follow_downloads(waits)
        now = time.monotonic_ns()
        done = self.bytes if self.counting is not None else self._seen_fetched
        self._samples.append((now, done))
        # The load's own thread may have cleared them since.
        first_ns, first = next(iter(tuple(self._samples)), (now, done))
        lasted_s = (now - first_ns) / 1e9
        return LoadProgress(
            step=self.step,
            parameters=self.parameters,
            parameters_total=self.parameters_total,
            bytes=done,
            bytes_total=self.bytes_total if self.counting is not None else None,
            bytes_per_s=max(0.0, (done - first) / lasted_s) if lasted_s > 0 else 0.0,
            outstanding=self._outstanding(waits),
        )

    def _outstanding(self, waits: list[Wait]) -> tuple[Outstanding, ...]:
        told = [
            Outstanding(
                waiting=wait.waiting,
                what=wait.what,
                since_ns=wait.since_ns,
                attempts=wait.attempts,
                last_error=wait.last_error,
            )
            for wait in waits
        ]
        told += [
            Outstanding(waiting="file", what=path, since_ns=since_ns)
            for path, since_ns in list(self.reading.values())
        ]
        return tuple(sorted(told, key=lambda one: one.since_ns)[:OUTSTANDING_TOLD])

    def _follow_downloads(self, waits: Iterable[Wait]) -> None:
        """Bytes that arrive are progress, though no hook sees them."""
        downloads = [wait for wait in waits if wait.waiting == "download"]
        if not downloads:
            return
        fetched = self._fetched + sum(wait.fetched() for wait in downloads)
        if fetched > self._seen_fetched:
            self._seen_fetched = fetched
            self._tell_fetching(downloads[0].what, fetched)


_loads: list[Load] = []
_lock = threading.Lock()


def current_load() -> Load | None:
    """This thread's innermost load; in a worker thread, which has none, the newest before it."""
    loads = list(_loads)  # asked for every tensor
    if not loads:
        return None
    mine = threading.get_ident()
    own = next((load for load in reversed(loads) if load.thread == mine), None)
    if own is not None:
        return own
    thread = threading.get_native_id()
    return next((load for load in reversed(loads) if thread not in load.strangers), None)


def begin_load(
    name: str, arguments: LoadArguments, *, adopts: bool = False, deadline_s: float | None = None
) -> Load | None:
    """A load begins in this thread; None where it is a part of the one under way, or nobody looks.

    Args:
        name: of the call, one of `LOAD_STEPS`.
        adopts: whether the next such call in this thread is a part of this one.
        deadline_s: without progress; by default the setting for loads.
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
        deadline_kind="load" if deadline_s is None else None,
        deadline_s=deadline_s,
        label=arguments.checkpoint,
        site=caller_site(folders_of(*LIBRARIES)),
    )
    load = Load(agent, step, name, adopts=adopts)
    agent.plan_load(LoadPlanned(step=step, arguments=arguments))
    with _lock:
        _loads.append(load)
        if _progress not in agent.load_sources:
            agent.load_sources.append(_progress)
    return load


def end_load(load: Load, placement: Placement | None, error: BaseException | None) -> None:
    """The call has returned a model that lies so, or has raised."""
    with _lock:
        if load in _loads:
            _loads.remove(load)
    load.end_building()
    if placement is not None:
        load.agent.place_model(ModelPlaced(step=load.step, placement=placement))
    load.agent.end_step(load.step, _redacted(error))


def forget_loads() -> None:
    """Forgets loads under way."""
    _loads.clear()


def _forked() -> None:
    # The parent's loads are none of the child's, and another thread may have held the lock.
    global _lock
    _lock = threading.Lock()
    forget_loads()


os.register_at_fork(after_in_child=_forked)


def _redacted(error: BaseException | None) -> str | None:
    """What the libraries raise quotes URLs, which may be signed."""
    text = error_text(error)
    return None if text is None else redact_text(text)


def _progress() -> list[LoadProgress]:
    return [load.progress() for load in list(_loads)]


def checkpoint_name(given: object) -> str:
    """A path or an id, as it may be written down."""
    return redact_text(str(given))[:300]


def versions() -> dict[str, str]:
    """Of the libraries that have a part in loading and are loaded."""
    return {
        name: str(version)
        for name in LIBRARIES
        if (version := getattr(sys.modules.get(name), "__version__", None)) is not None
    }


class Phase:
    """A function that is a part of a load, as a step of its own. Outside a load it is nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def files(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """How many files it will read, where the arguments say so."""
        return None

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or not load.is_mine:
            return None
        # Weights are tied while a model is built, too; and one function may be hooked under the
        # names of two libraries.
        if (self._name == "tie" and load.is_building) or load.phase == self._name:
            return None
        return load, load.begin_phase(self._name, total=self.files(args, kwargs))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is not None:
            load, step = token
            load.end_phase(step, error)


class Counted(Phase):
    """A phase in which files are read and tensors are placed."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token = super().before(args, kwargs)
        if token is not None:
            load, step = token
            load.begin_counting(step, self.files(args, kwargs))
        return token


class FileOpened:
    """A function whose first argument, or `filename`, is a checkpoint file that it reads."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or load.counting is None:
            return None
        path: Any = args[0] if args else next(iter(kwargs.values()), "")
        while isinstance(path, (list, tuple)) and path:
            path = path[0]
        if not str(path):
            return None  # 4.x: a state dict that is in memory already
        load.open_file(str(path))
        return load, str(path), load.begin_wait(Wait("file", str(path)))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        load, path, wait = token
        load.end_wait(wait, error)
        if load.files == 1 and load.bytes_total is None and error is None:
            load.bytes_total = os.stat(path).st_size


class TensorRead:
    """A function whose first argument is a tensor of a checkpoint file that it reads."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or load.counting is None or not args:
            return None
        load.read_tensor(args[0])
        return load

    def after(self, token: Load | None, result: Any, error: BaseException | None) -> None:
        if token is not None:
            token.reading.pop(threading.get_ident(), None)


class TensorPlaced:
    """A function that gives a tensor its place: counted."""

    def __init__(self, position: int, name: str) -> None:
        """
        Args:
            position: of the tensor among the arguments.
            name: of that argument.
        """
        self._position = position
        self._name = name

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or load.counting is None:
            return None
        tensor = args[self._position] if len(args) > self._position else kwargs.get(self._name)
        return None if tensor is None else (load, int(getattr(tensor, "nbytes", 0) or 0))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is not None and error is None:
            load, size = token
            load.place(size)


def hook_function(
    patches: PatchSet, module: ModuleType | None, name: str, observer: Observer
) -> bool:
    """Hooks a function of a module, False where there is none of that name."""
    original = vars(module).get(name) if module is not None else None
    if module is None or not callable(original):
        return False
    hook = observe(f"load: {name}", original, observer)
    patches.replace(module, name, hook)
    return True


def hook_method(patches: PatchSet, owner: type, name: str, observer: Observer) -> bool:
    """Hooks a method where its class or a base of it defines it; False where none does."""
    defining = next((c for c in owner.__mro__ if name in vars(c)), None)
    if defining is None or defining is object:
        return False
    hook = observe_method(f"load: {defining.__name__}.{name}", vars(defining)[name], observer)
    patches.replace(defining, name, hook)
    return True
