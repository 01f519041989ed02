"""What a synthetic rank tells: a training loop with a collective ten times a second, and its hang."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from distwatch.state import events as ev
from distwatch.state.recorder_entries import Collective, PackedEntries, pack_entries

STEP_NS = 100_000_000
RING = 128
DUMPED = 64
TENSOR_PARALLEL = 8
_SITE = ev.Site(file="/home/user/experiments/large/train.py", line=212, function="train_step")
_INTEGRATIONS = (
    "torch_distributed device_mesh huggingface_hub accelerate transformers_config transformers "
    "transformers_auto ray peft megatron_groups sglang_groups neuron_groups accelerate_groups"
).split()
_LIBRARY = "/opt/venv/lib/python3.11/site-packages"
_OUTER = (
    ev.Frame(function="<module>", file=_SITE.file, line=340),
    ev.Frame(function="main", file=_SITE.file, line=301),
    ev.Frame(function="train_step", file=_SITE.file, line=212),
)
_MODEL = tuple(
    ev.Frame(function=f"forward_{n}", file=f"{_LIBRARY}/model/layer{n}.py", line=40 + n)
    for n in range(24)
)
_AGENT = tuple(
    ev.Frame(function=name, file=f"{_LIBRARY}/distwatch/agent/core.py", line=378)
    for name in ("_bootstrap", "_bootstrap_inner", "run", "_run", "guard", "serve")
)


class Training:
    """The job as a whole: all ranks are in the same step, until one does not come.

    Attributes:
        missing: the rank that enters no collective from `hung_ns` on.
    """

    def __init__(self, world: int, missing: int, deadline_s: float) -> None:
        self.world = world
        self.missing = missing
        self.deadline_s = deadline_s
        self.members = tuple(range(world))
        self.began_ns = time.monotonic_ns()
        self.hung_ns = 0
        self._ring: tuple[ev.Operation, ...] = ()
        self._ring_of = -1
        self.dumps: dict[tuple[int, int], PackedEntries | None] = {}
        """By the newest collectives that were completed and entered."""

    def hang(self) -> None:
        """From the next collective on, one rank is elsewhere."""
        self.hung_ns = self._step_ns(self.completed() + 1)

    def completed(self) -> int:
        """The newest collective that all ranks have completed."""
        now = time.monotonic_ns()
        if self.hung_ns:
            now = min(now, self.hung_ns - 1)
        return max(0, (now - self.began_ns) // STEP_NS)

    def is_hung(self) -> bool:
        return bool(self.hung_ns) and time.monotonic_ns() >= self.hung_ns

    def is_overdue(self) -> bool:
        """Whether the others have waited for longer than they may."""
        since_ns = time.monotonic_ns() - self.hung_ns
        return bool(self.hung_ns) and since_ns > self.deadline_s * 1e9

    def ring(self) -> tuple[ev.Operation, ...]:
        """The operations ring of any rank: the newest collectives that it has left."""
        newest = self.completed()
        if newest != self._ring_of:
            self._ring_of = newest
            first = max(1, newest - RING + 1)
            self._ring = tuple(self.operation(seq) for seq in range(first, newest + 1))
        return self._ring

    def operation(self, seq: int, *, left: bool = True) -> ev.Operation:
        entered = self._step_ns(seq)
        return ev.Operation(
            number=seq, op="allreduce", pg_name="0", seq=seq, site=1, entered_ns=entered,
            left_ns=entered + 300_000 if left else 0, numel=25_000_000, dtype="bfloat16",
        )  # fmt: skip

    def _step_ns(self, seq: int) -> int:
        return self.began_ns + seq * STEP_NS


def start_of(started: ev.ProcessStarted, training: Training) -> Iterator[ev.Event]:
    """A rank's records from its first to the first step of its training."""
    rank, world = started.identity.global_rank or 0, training.world
    yield started
    for name in _INTEGRATIONS:
        yield ev.IntegrationChanged(name=name, status="armed")
    for name in _INTEGRATIONS[:2]:
        yield ev.IntegrationChanged(name=name, status="applied", version="2.13.0+cpu")
    yield ev.InitPlanned(
        global_rank=rank, world_size=world, endpoint="node000:29500", backend="gloo",
        interfaces=("lo", "eth0", "ib0"), site=_SITE,
        versions={"distwatch": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu"},
    )  # fmt: skip
    yield _step(1, "init_process_group", None, "gloo, env://")
    yield _step(2, "rendezvous", 1, "env://, node000:29500")
    yield ev.StepEnded(step=2)
    yield _step(3, "new_process_group", 1, "connects group 0")
    yield ev.StepEnded(step=3)
    yield ev.GroupCreated(
        pg_name="0", pg_desc="default_pg", backend="gloo", members=training.members,
        timeout_s=1800.0,
    )  # fmt: skip
    yield ev.IdentityConfirmed(global_rank=rank, world_size=world)
    yield ev.StepEnded(step=1)
    first = rank // TENSOR_PARALLEL * TENSOR_PARALLEL
    yield ev.GroupCreated(
        pg_name=str(1 + rank // TENSOR_PARALLEL), pg_desc="mesh_tp", backend="gloo", axis="tp",
        members=training.members[first : first + TENSOR_PARALLEL], timeout_s=1800.0,
    )  # fmt: skip
    yield ev.SiteSeen(number=1, site=_SITE)


def pulse_of(training: Training, rank: int, key: str, beat: int) -> ev.PulseRead:
    """The live page and the operations ring of a rank."""
    ring, completed = training.ring(), training.completed()
    enqueued, changed = completed, training.began_ns + completed * STEP_NS
    if training.is_hung() and rank != training.missing:
        enqueued, changed = completed + 1, training.hung_ns
        ring = (*ring[1:], training.operation(enqueued, left=False))
    groups = (
        ev.GroupProgress(pg_name="0", enqueued=enqueued, completed=completed, changed_ns=changed),
        ev.GroupProgress(pg_name=str(1 + rank // TENSOR_PARALLEL), enqueued=0, completed=0),
    )
    pulse = ev.Pulse(
        beat=beat, beat_ns=time.monotonic_ns(), groups=groups, recorder="flight recorder (gloo)"
    )
    return ev.PulseRead(process=key, pulse=pulse, operations=ring)


def sample_of(training: Training, rank: int, key: str) -> ev.ProcessSampled:
    waits = training.is_hung() and rank != training.missing
    cpu_s = (time.monotonic_ns() - training.began_ns) / 2e9
    return ev.ProcessSampled(
        process=key, state="S", wchan="futex_do_wait" if waits else "hrtimer_nanosleep",
        syscall="futex" if waits else "clock_nanosleep", cpu_s=cpu_s,
        rss_bytes=40_000_000_000 + rank, threads=36,
    )  # fmt: skip


def stack_of(training: Training, rank: int, key: str, pid: int) -> ev.StackTaken:
    """Three threads, 30 frames deep in the main one; one rank in ten stands a little elsewhere."""
    inner = [
        ev.Frame(
            function="_exception_logger.<locals>.wrapper",
            file=f"{_LIBRARY}/torch/distributed/c10d_logger.py", line=83,
        ),
        ev.Frame(
            function="all_reduce", file=f"{_LIBRARY}/torch/distributed/distributed_c10d.py",
            line=3252 if rank % 10 else 3250,
        ),
    ]  # fmt: skip
    if rank == training.missing:
        inner = [ev.Frame(function="save_checkpoint", file=_SITE.file, line=99)]
    since = training.hung_ns or training.began_ns
    return ev.StackTaken(
        process=key,
        threads=(
            ev.ThreadStack(name="distwatch", os_thread_id=pid + 2_000_000, frames=_AGENT),
            ev.ThreadStack(name="loader", os_thread_id=pid + 3_000_000, frames=_AGENT[:4]),
            ev.ThreadStack(
                name="MainThread", os_thread_id=pid, frames=(*_OUTER, *_MODEL, *inner)
            ),
        ),
        unchanged_since_ns=since, settled_since_ns=since, settled_cpu_s=0.01,
    )  # fmt: skip


def dump_of(training: Training, rank: int, why: str) -> ev.CollectivesDumped:
    """The flight recorder's newest entries; each rank has made the same calls a nanosecond after the one before."""
    completed = training.completed()
    newest = completed + (training.is_hung() and rank != training.missing)
    first = training.dumps.get((completed, newest))
    if first is None:
        # A rank packs its entries itself: for ten thousand of them that would be this process's work.
        first = training.dumps[completed, newest] = pack_entries(_entries(training, newest))
    if first is None:
        return ev.CollectivesDumped.of(why, ())
    at_ns, *since_ns = first.times_ns
    packed = msgspec.structs.replace(first, times_ns=(at_ns + rank, *since_ns))
    return ev.CollectivesDumped(reason=why, packed=packed)


def _entries(training: Training, newest: int) -> tuple[Collective, ...]:
    completed = training.completed()
    offset = time.time_ns() - time.monotonic_ns()
    return tuple(
        Collective(
            pg_name="0", pg_desc="default_pg", seq=seq, op="gloo:all_reduce",
            retired=seq <= completed, state="scheduled", input_sizes=((25_000_000,),),
            output_sizes=((25_000_000,),), input_dtypes=("BFloat16",),
            created_wall_ns=training.began_ns + seq * STEP_NS + offset, timeout_ms=1_800_000,
        )
        for seq in range(max(1, newest - DUMPED + 1), newest + 1)
    )  # fmt: skip


def _step(number: int, name: str, parent: int | None, label: str) -> ev.StepStarted:
    return ev.StepStarted(
        step=number, name=name, parent=parent, deadline_s=120.0, label=label, site=_SITE,
        thread="MainThread",
    )  # fmt: skip
