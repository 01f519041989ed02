"""Small programs that two or more ranks really run, as threads, until each has ended or waits for ever.

torch.distributed is played by a double that only matches calls: what is under test is where the *program* lets
its ranks part. What each rank called, and from where, its last stack and its end become a recorded job.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from distwatch.diagnosis.facts.user_frame import is_library
from distwatch.state import events as ev
from distwatch.state.recorder_entries import Collective
from tests.diagnosis.recorded import SECOND, RecordedJob

TORCH = "/venv/lib/python3.11/site-packages/torch"
WITHIN_S = 20.0
CALLS = {
    "all_reduce": "allreduce", "barrier": "barrier", "broadcast": "broadcast", "all_gather": "allgather",
    "reduce": "reduce", "all_gather_object": "allgather",
}  # fmt: skip
_PUBLIC = "\n".join(
    f"def {name}(x=None, *_, **__):\n    return _fabric.call({op!r}, x)"
    for name, op in CALLS.items()
)
_PUBLIC += (
    "\ndef get_rank():\n    return _fabric.rank\ndef get_world_size():\n    return _fabric.world"
)
_TENSOR = """
class Loss:
    def __init__(self, value=1.0): self.value = value
    def item(self): return self.value
    def backward(self): _fabric.backward()
"""
_MODEL = """
class DistributedDataParallel:
    def __call__(self, batch): return Loss(batch)
    def no_sync(self): return _fabric.without_sync()
"""


class Released(BaseException):
    """Ends a rank that waits for ever, once everything about it is noted."""


class Acting(threading.local):
    rank = -1
    syncs = True


class Fabric:
    """Matches the ranks' calls by their number, as a process group does."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.changed = threading.Condition()
        self.calls: list[list[tuple[str, int, tuple[tuple[CodeType, int], ...]]]] = [
            [] for _ in range(world)
        ]
        self.idle: dict[int, str] = {}
        self.completed = 0
        self.over = False
        self.local = Acting()

    @property
    def rank(self) -> int:
        return self.local.rank

    def call(self, op: str, value: Any) -> Any:
        numel = len(value) if isinstance(value, (list, tuple)) else 1
        self._enter(op, numel, _users_chain(sys._getframe(2)))
        return value

    def backward(self) -> None:
        if self.local.syncs:
            self._enter("allreduce", 64, ())

    @contextlib.contextmanager
    def without_sync(self) -> Iterator[None]:
        before, self.local.syncs = self.local.syncs, False
        try:
            yield
        finally:
            self.local.syncs = before

    def _enter(self, op: str, numel: int, chain: tuple[tuple[CodeType, int], ...]) -> None:
        with self.changed:
            mine = self.calls[self.rank]
            mine.append((op, numel, chain))
            number = len(mine)
            self._match()
            self._wait("waits", lambda: self.completed >= number)

    def _match(self) -> None:
        while True:
            at = [calls[self.completed][:2] for calls in self.calls if len(calls) > self.completed]
            if len(at) < self.world or len(set(at)) > 1:
                break
            self.completed += 1
        self.changed.notify_all()

    def stuck(self) -> None:
        """Never returns: a file, a lock, a peer outside the job."""
        with self.changed:
            self._wait("stuck", lambda: False)

    def _wait(self, how: str, done: Any) -> None:
        while not done():
            self.idle[self.rank] = how
            self.changed.notify_all()
            if not self.changed.wait(WITHIN_S) or self.over:
                raise Released
        self.idle.pop(self.rank, None)


def _users_chain(frame: FrameType | None) -> tuple[tuple[CodeType, int], ...]:
    chain: list[tuple[CodeType, int]] = []
    while frame is not None:
        if not is_library(frame.f_code.co_filename) and frame.f_code.co_filename != __file__:
            chain.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(reversed(chain))


class ActedJob:
    """A program as its ranks run it; `recorded` is what distwatch would have recorded of it."""

    def __init__(
        self, script: Path, text: str, world: int = 2, given: dict[str, Any] | None = None
    ) -> None:
        self.path = script
        self.text = textwrap.dedent(text).lstrip("\n")
        script.write_text(self.text)
        self.world = world
        self.given = given or {}
        self.fabric = Fabric(world)
        self.ends: dict[int, BaseException | None] = {}
        self.stacks: dict[int, tuple[ev.Frame, ...]] = {}
        self.tracebacks: dict[int, tuple[str, ...]] = {}

    def act(self) -> ActedJob:
        """Runs all ranks until none can go on."""
        threads = [
            threading.Thread(target=self._run, args=(rank,), daemon=True)
            for rank in range(self.world)
        ]
        for thread in threads:
            thread.start()
        fabric = self.fabric
        with fabric.changed:
            quiet = fabric.changed.wait_for(self._is_quiet, WITHIN_S)
            assert quiet, "a rank neither ends nor waits"
            frames = sys._current_frames()
            for rank, thread in enumerate(threads):
                if rank not in self.ends:
                    self.stacks[rank] = _stack(frames[thread.ident or 0])
            fabric.over = True
            fabric.changed.notify_all()
        for thread in threads:
            thread.join(WITHIN_S)
        return self

    def _is_quiet(self) -> bool:
        fabric = self.fabric
        for rank, how in fabric.idle.items():
            if how == "waits" and fabric.completed >= len(fabric.calls[rank]):
                return False
        return len(self.ends.keys() | fabric.idle.keys()) == self.world

    def _run(self, rank: int) -> None:
        fabric = self.fabric
        fabric.local.rank = rank
        end: BaseException | None = None
        try:
            exec(compile(self.text, str(self.path), "exec"), self._names(rank))
        except Released:
            return
        except BaseException as error:
            end = error
        with fabric.changed:
            self.ends[rank] = end
            fabric.changed.notify_all()

    def _names(self, rank: int) -> dict[str, Any]:
        fabric = self.fabric
        dist: dict[str, Any] = {"_fabric": fabric}
        exec(compile(_PUBLIC, f"{TORCH}/distributed/distributed_c10d.py", "exec"), dist)
        tensor: dict[str, Any] = {"_fabric": fabric}
        exec(compile(_TENSOR, f"{TORCH}/_tensor.py", "exec"), tensor)
        exec(compile(_MODEL, f"{TORCH}/nn/parallel/distributed.py", "exec"), tensor)
        stuck: dict[str, Any] = {"_fabric": fabric}
        exec(
            compile("def stuck():\n    _fabric.stuck()", "/usr/lib/python3.11/socket.py", "exec"),
            stuck,
        )
        module = type("dist", (), {n: staticmethod(f) for n, f in dist.items() if callable(f)})
        return {
            "__name__": "__main__", "dist": module, "rank": rank, "world_size": self.world,
            "stuck": stuck["stuck"], "Loss": tensor["Loss"],
            "model": tensor["DistributedDataParallel"](), **self.given,
        }  # fmt: skip

    # ---- as distwatch records it ---------------------------------------------------------

    def recorded(self, *, calls: bool = True, stacks: bool = True) -> RecordedJob:
        """The job as it stands a while later.

        Args:
            calls: False: a job without distwatch, seen only from outside.
            stacks: False: nobody looked at it while it was alive.
        """
        job = RecordedJob(self.world)
        if calls:
            job.initialize(*range(self.world))
        for rank in range(self.world):
            if calls:
                self._record_calls(job, rank)
            else:
                job.sight(rank, 1.0)
            if stacks and rank in self.stacks:
                looked = {"unchanged_since_ns": 10 * SECOND}
                job.stack(rank, 30.0, self.stacks[rank], looked)
            job.sample(rank, 30.0, "S", syscall="futex")
            if rank in self.ends:
                self._record_end(job, rank)
        read = ev.SourceFileRead(host="node1", file=str(self.path), text=self.text)
        job.see(30.0, read)
        job.tick(31.0)
        return job

    def _record_calls(self, job: RecordedJob, rank: int) -> None:
        numbers: dict[tuple[CodeType, int, int], int] = {}
        operations: list[ev.Operation] = []
        made = self.fabric.calls[rank]
        for seq, (op, numel, chain) in enumerate(made, 1):
            number = 0
            for code, line in chain:
                key = (code, line, number)
                if key not in numbers:
                    numbers[key] = len(numbers) + 1
                    site = ev.Site(file=code.co_filename, line=line, function=code.co_name)
                    seen = ev.SiteSeen(number=numbers[key], site=site, called_from=number)
                    job.say(rank, 2.0, seen)
                number = numbers[key]
            at = 5.0 + seq * 0.01
            left = at if seq <= self.fabric.completed else 0.0
            if chain:
                operations.append(
                    job.operation(rank, op, seq, at=at, left=left, site=number, numel=numel)
                )
        last = len(made)
        done = min(self.fabric.completed, last)
        entries = tuple(
            Collective(
                pg_name="0", pg_desc="default_pg", seq=seq, op=f"gloo:{op}",
                input_sizes=((numel,),), output_sizes=((numel,),), input_dtypes=("Float",),
                retired=seq <= self.fabric.completed, created_wall_ns=seq,
            )
            for seq, (op, numel, _) in enumerate(made, 1)
        )  # fmt: skip
        job.say(rank, 20.0, ev.CollectivesDumped(reason="suspicion", entries=entries))
        groups = {"0": (last or -1, done or -1, 10.0)}
        job.pulse(rank, at=30.0, groups=groups, operations=tuple(operations[-128:]))

    def _record_end(self, job: RecordedJob, rank: int) -> None:
        error = self.ends[rank]
        if error is None or isinstance(error, SystemExit):
            job.say(rank, 8.0, ev.ProcessEnding())
            job.exit(rank, 8.1, code=0)
            return
        lines: list[str] = []
        traceback = error.__traceback__
        while traceback is not None:
            code = traceback.tb_frame.f_code
            if code.co_filename != __file__:
                lines.append(
                    f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}'
                )
            traceback = traceback.tb_next
        job.say(
            rank, 8.0,
            ev.ExceptionUncaught(
                type_name=type(error).__name__, message=str(error), traceback=tuple(lines)
            ),
        )  # fmt: skip
        job.exit(rank, 8.1, code=1)


def _stack(frame: FrameType | None) -> tuple[ev.Frame, ...]:
    frames: list[ev.Frame] = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename not in (__file__, threading.__file__):
            frames.append(
                ev.Frame(function=code.co_name, file=code.co_filename, line=frame.f_lineno)
            )
        frame = frame.f_back
    return tuple(reversed(frames))
