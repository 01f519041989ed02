"""Builds a job's recorded state through real events and the real reducer, rank by rank."""

from __future__ import annotations

from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import Identity
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce

HOST = "node1"
SECOND = 1_000_000_000
DEADLINES = {"init": 10.0, "group": 10.0, "load": 30.0, "collective": 10.0}


def frame(function: str, file: str, line: int = 1) -> ev.Frame:
    return ev.Frame(function=function, file=file, line=line)


READING = (frame("main", "/job/train.py", 9), frame("read_shard", "/job/data.py", 42))
WAITING = (
    frame("main", "/job/train.py", 9),
    frame(
        "all_reduce",
        "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py",
        3000,
    ),
)


class RecordedJob:
    """A job of `world` ranks on one host; times are seconds since its start."""

    def __init__(self, world: int, *, launcher: str = "torchrun", single_node: bool = True) -> None:
        self.state = RunState(run_id="recorded")
        self.world = world
        self.launcher = launcher
        self.local = world if single_node else None
        self._seq: dict[str, int] = {}
        self.headers: dict[str, FileHeader] = {}
        self.records: dict[str, list[tuple[int, int, ev.AnyEvent]]] = {}
        self._observer = FileHeader(
            stream="observer:node1-1.1",
            host=HOST,
            pid=1,
            start_ticks=1,
            boot_id="b",
            wall_offset_ns=0,
            salt=1,
        )

    def key(self, rank: int) -> str:
        return process_key(HOST, 1000 + rank, 5)

    def say(self, rank: int, at: float, event: ev.AnyEvent) -> None:
        """An event of the rank's own journal."""
        header = FileHeader(
            stream=self.key(rank),
            host=HOST,
            pid=1000 + rank,
            start_ticks=5,
            boot_id="b",
            wall_offset_ns=0,
            salt=1,
        )
        self._fold(header, at, event)

    def see(self, at: float, event: ev.AnyEvent) -> None:
        """An event of the observer's journal."""
        self._fold(self._observer, at, event)

    def _fold(self, header: FileHeader, at: float, event: ev.AnyEvent) -> None:
        seq = self._seq[header.stream] = self._seq.get(header.stream, 0) + 1
        self.headers[header.stream] = header
        self.records.setdefault(header.stream, []).append((seq, int(at * SECOND), event))
        reduce(self.state, header, seq, int(at * SECOND), event)

    def identity(self, rank: int) -> Identity:
        return Identity(
            launcher=self.launcher,
            global_rank=rank,
            world_size=self.world,
            local_world_size=self.local,
            master_addr="10.0.0.1",
            master_port=29500,
        )

    def start(self, *ranks: int, at: float = 0.0) -> None:
        for rank in ranks:
            started = ev.ProcessStarted(
                host=HOST,
                pid=1000 + rank,
                start_ticks=5,
                ppid=999,
                role="rank",
                identity=self.identity(rank),
                deadlines=DEADLINES,
            )
            self.say(rank, at, started)

    def begin(self, rank: int, step: int, name: str, at: float, **more: object) -> None:
        kind = {"from_pretrained": "load", "init_process_group": "init"}.get(name, "group")
        started = ev.StepStarted(step=step, name=name, deadline_s=DEADLINES[kind], **more)  # type: ignore[arg-type]
        self.say(rank, at, started)

    def initialize(self, *ranks: int, at: float = 1.0) -> None:
        """Starts the ranks and forms the default group."""
        for rank in ranks:
            if self.key(rank) not in self.state.processes:
                self.start(rank)
            self.begin(rank, 1, "init_process_group", at)
            self.hold(rank, "0", tuple(range(self.world)), desc="default_pg", at=at)
            self.say(rank, at, ev.StepEnded(step=1))
            self.say(rank, at, ev.IdentityConfirmed(global_rank=rank, world_size=self.world))

    def hold(
        self, rank: int, pg_name: str, members: tuple[int, ...], *, desc: str = "", at: float = 1.0,
        timeout_s: float | None = 1800.0,
    ) -> None:  # fmt: skip
        created = ev.GroupCreated(
            pg_name=pg_name, pg_desc=desc, backend="gloo", members=members, timeout_s=timeout_s
        )
        self.say(rank, at, created)

    def pulse(
        self,
        rank: int,
        *,
        at: float,
        groups: dict[str, tuple[int, int, float]] | None = None,
        operations: tuple[ev.Operation, ...] = (),
    ) -> None:
        """A pulse: group name → (enqueued, completed, when that last changed)."""
        progress = tuple(
            ev.GroupProgress(pg_name=n, enqueued=e, completed=c, changed_ns=int(changed * SECOND))
            for n, (e, c, changed) in (groups or {}).items()
        )
        pulse = ev.Pulse(beat=int(at * 2) + 1, beat_ns=int(at * SECOND), groups=progress)
        self.see(at, ev.PulseRead(process=self.key(rank), pulse=pulse, operations=operations))

    def operation(
        self, rank: int, op: str, seq: int, *, at: float, site: int = 0, numel: int = 64, left: float = 0.0,
        pg_name: str = "0", dtype: str = "float32", number: int | None = None,
    ) -> ev.Operation:  # fmt: skip
        return ev.Operation(
            number=number or seq, op=op, pg_name=pg_name, seq=seq, site=site, numel=numel, dtype=dtype,
            entered_ns=int(at * SECOND), left_ns=int(left * SECOND),
        )  # fmt: skip

    def stack(self, rank: int, at: float, frames: tuple[ev.Frame, ...], **more: object) -> None:
        thread = ev.ThreadStack(name="MainThread", os_thread_id=1000 + rank, frames=frames, **more)  # type: ignore[arg-type]
        self.see(at, ev.StackTaken(process=self.key(rank), threads=(thread,)))

    def sample(self, rank: int, at: float, state: str, **more: object) -> None:
        self.see(at, ev.ProcessSampled(process=self.key(rank), state=state, **more))  # type: ignore[arg-type]

    def sight(self, rank: int, at: float) -> None:
        """A rank without distwatch, seen in the process table."""
        sighted = ev.ProcessSighted(
            process=self.key(rank), host=HOST, pid=1000 + rank, start_ticks=5, ppid=999, role="rank",
            identity=self.identity(rank),
        )  # fmt: skip
        self.see(at, sighted)

    def fail(self, rank: int, at: float, type_name: str, message: str, line: int = 7) -> None:
        error = ev.ExceptionUncaught(
            type_name=type_name,
            message=message,
            traceback=(f'  File "/job/train.py", line {line}, in step', f"{type_name}: {message}"),
            site=ev.Site(file="/job/train.py", line=line, function="step"),
        )
        self.say(rank, at, error)

    def exit(
        self,
        rank: int,
        at: float,
        code: int | None = None,
        signal: int | None = None,
        **more: object,
    ) -> None:
        seen = ev.ExitSeen(
            process=self.key(rank), exit_code=code, signal=signal, how="pidfd", **more
        )  # type: ignore[arg-type]
        self.see(at, seen)

    def tick(self, at: float) -> None:
        self.see(at, ev.Ticked(host=HOST))


def hung_job(world: int = 4, culprit: int = 2, waited: float = 20.0) -> RecordedJob:
    """All but one rank are in all_reduce #5; the culprit reads a data shard."""
    job = RecordedJob(world)
    job.initialize(*range(world))
    now = 10.0 + waited
    for rank in range(world):
        if rank == culprit:
            done = job.operation(rank, "allreduce", 4, at=9, left=9.5)
            job.pulse(rank, at=now, groups={"0": (4, 4, 9.5)}, operations=(done,))
            job.stack(rank, now, READING)
        else:
            inside = job.operation(rank, "allreduce", 5, at=10)
            job.pulse(rank, at=now, groups={"0": (5, 4, 10.0)}, operations=(inside,))
            job.stack(rank, now, WAITING)
        job.sample(rank, now, "S")
    job.tick(now)
    return job
