"""Small programs that two or more ranks really run, as threads, until each has ended or waits for ever.

torch.distributed is played by a double that only matches calls: what is under test is where the *program* lets
its ranks part. What each rank called, and from where, its last stack and its end become a recorded job.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import threading
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

from distwatch.state import events as ev
from distwatch.state.loads import LoadArguments
from distwatch.state.recorder_entries import Collective
from tests.diagnosis.acted_fabric import WITHIN_S, Chain, Fabric, Posted, Released, is_double
from tests.diagnosis.recorded import SECOND, RecordedJob

TORCH = "/venv/lib/python3.11/site-packages/torch"
CALLS = {
    "all_reduce": "allreduce", "barrier": "barrier", "broadcast": "broadcast", "all_gather": "allgather",
    "reduce": "reduce", "all_gather_object": "allgather",
}  # fmt: skip
_PUBLIC = "\n".join(
    f"def {name}(x=None, *_, **__):\n    return _fabric.call({op!r}, x)"
    for name, op in CALLS.items()
)
_PUBLIC += "\n" + "\n".join(
    f"def {name}(x=None, peer=0, tag=0):\n    return _fabric.post({op!r}, peer, tag)"
    for name, op in (("send", "send"), ("recv", "recv"), ("isend", "send"), ("irecv", "recv"))
)
_PUBLIC += "\ndef new_group(ranks=None, **_):\n    return _fabric.make_group(ranks)"
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
    def __setattr__(self, name, value):
        if name == "require_backward_grad_sync":
            _fabric.local.syncs = value
"""
_LOADS = """
class AutoModel:
    @classmethod
    def from_pretrained(cls, path): return _fabric.load(path)
"""


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
        if any(may_go_on() for may_go_on in fabric.idle.values()):
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
        with contextlib.suppress(Released), fabric.acting():
            self.ends[rank] = end
            fabric.changed.notify_all()

    def _names(self, rank: int) -> dict[str, Any]:
        fabric = self.fabric
        dist: dict[str, Any] = {"_fabric": fabric}
        exec(compile(_PUBLIC, f"{TORCH}/distributed/distributed_c10d.py", "exec"), dist)
        tensor: dict[str, Any] = {"_fabric": fabric}
        exec(compile(_TENSOR, f"{TORCH}/_tensor.py", "exec"), tensor)
        exec(compile(_MODEL, f"{TORCH}/nn/parallel/distributed.py", "exec"), tensor)
        loads: dict[str, Any] = {"_fabric": fabric}
        place = "/venv/lib/python3.11/site-packages/transformers/models/auto/auto_factory.py"
        exec(compile(_LOADS, place, "exec"), loads)
        stuck: dict[str, Any] = {"_fabric": fabric}
        exec(
            compile("def stuck():\n    _fabric.stuck()", "/usr/lib/python3.11/socket.py", "exec"),
            stuck,
        )
        module = type("dist", (), {n: staticmethod(f) for n, f in dist.items() if callable(f)})
        return {
            "__name__": "__main__", "dist": module, "rank": rank, "world_size": self.world,
            "stuck": stuck["stuck"], "Loss": tensor["Loss"], "AutoModel": loads["AutoModel"],
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
        made, posts = self.fabric.calls[rank], self.fabric.posts[rank]
        taken = {one.number for one in posts}
        free = (number for number in count(1) if number not in taken)
        for seq, (op, numel, chain) in enumerate(made, 1):
            place, order = next(free), _site(job, rank, numbers, chain)
            at = 5.0 + place * 0.01
            left = at if seq <= self.fabric.completed else 0.0
            if chain:
                operations.append(
                    job.operation(
                        rank, op, seq, at=at, left=left, site=order, numel=numel, number=place
                    )
                )
        operations += [self._recorded_post(job, rank, one, numbers) for one in posts]
        operations.sort(key=lambda one: one.number)
        self._record_groups(job, rank)
        self._record_load(job, rank)
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
        job.say(rank, 20.0, ev.CollectivesDumped.of("suspicion", entries))
        groups = {"0": (last or -1, done or -1, 10.0)}
        job.pulse(
            rank,
            at=30.0,
            groups=groups,
            operations=tuple(operations[-128:]),
            peers=_progress(posts),
        )

    def _recorded_post(
        self,
        job: RecordedJob,
        rank: int,
        one: Posted,
        numbers: dict[tuple[CodeType, int, int], int],
    ) -> ev.Operation:
        at = 5.0 + one.number * 0.01
        over = one.op == "send" or self.fabric.has_sent(one.peer, rank, one.tag) >= one.posted
        posted = job.peer(
            rank, one.op, one.peer, at=at, posted=one.posted, tag=one.tag, number=one.number,
            left=at if over else 0.0,
        )  # fmt: skip
        return msgspec.structs.replace(posted, site=_site(job, rank, numbers, one.chain))

    def _record_load(self, job: RecordedJob, rank: int) -> None:
        if path := self.fabric.loading.get(rank):
            job.say(
                rank,
                6.0,
                ev.StepStarted(step=50, name="from_pretrained", deadline_s=10.0, label=path),
            )
            job.say(rank, 6.0, ev.LoadPlanned(step=50, arguments=LoadArguments(checkpoint=path)))

    def _record_groups(self, job: RecordedJob, rank: int) -> None:
        for number, (members, chain) in enumerate(self.fabric.groups[rank], 1):
            code, line = chain[-1]
            site = ev.Site(file=code.co_filename, line=line, function=code.co_name)
            job.say(rank, 3.0, ev.GroupCalled(number=number, members=members, site=site))
            job.begin(rank, 100 + number, f"new_group #{number}", 3.0, site=site)
            outside = members is not None and rank not in members
            if outside or self.fabric.is_made(members, number):
                job.say(rank, 3.1, ev.StepEnded(step=100 + number))

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
            if not is_double(code.co_filename):
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


def _site(
    job: RecordedJob, rank: int, numbers: dict[tuple[CodeType, int, int], int], chain: Chain
) -> int:
    """The number of a call site, with its callers, once they are told."""
    number = 0
    for code, line in chain:
        key = (code, line, number)
        if key not in numbers:
            numbers[key] = len(numbers) + 1
            site = ev.Site(file=code.co_filename, line=line, function=code.co_name)
            job.say(rank, 2.0, ev.SiteSeen(number=numbers[key], site=site, called_from=number))
        number = numbers[key]
    return number


def _progress(posts: list[Posted]) -> tuple[ev.PeerProgress, ...]:
    latest = {(one.op, one.peer, one.tag): one.posted for one in posts}
    return tuple(
        ev.PeerProgress(pg_name="0", op=op, peer=peer, tag=tag, posted=posted)  # type: ignore[arg-type]
        for (op, peer, tag), posted in latest.items()
    )


def _stack(frame: FrameType | None) -> tuple[ev.Frame, ...]:
    frames: list[ev.Frame] = []
    while frame is not None:
        code = frame.f_code
        if not is_double(code.co_filename) and code.co_filename != threading.__file__:
            frames.append(
                ev.Frame(function=code.co_name, file=code.co_filename, line=frame.f_lineno)
            )
        frame = frame.f_back
    return tuple(reversed(frames))
