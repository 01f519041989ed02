"""Runs made of real events, folded by the real reducer, behind the interface of a RunSource."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple, Protocol

from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import Identity
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce

HOST = "node01"
SECOND = 1_000_000_000
WALL_OFFSET_NS = 1_768_485_780 * SECOND
"""2026-01-15 14:03:00 UTC at monotonic zero."""
TORCH = "/opt/venv/lib/python3.11/site-packages/torch"


@cache
def observer_of(host: str) -> FileHeader:
    return FileHeader(
        stream=f"observer:{host}-77.1",
        host=host,
        pid=77,
        start_ticks=1,
        boot_id="b",
        wall_offset_ns=WALL_OFFSET_NS,
        salt=1,
    )


class Entry(NamedTuple):
    """One scripted record."""

    header: FileHeader
    seq: int
    time_ns: int
    event: ev.Event


class Script:
    """Collects records as a job and its observer would write them; times in seconds."""

    def __init__(self, world: int, *, on_a_host: int = 0) -> None:
        """Args:
        on_a_host: ranks on each host; 0: all on one.
        """
        self.world = world
        self.members = tuple(range(world))
        self._on_a_host = on_a_host
        self._said: list[tuple[int, FileHeader, ev.Event]] = []

    @property
    def entries(self) -> list[Entry]:
        """All records in order of time, numbered within their streams."""
        numbers: dict[str, int] = {}
        found: list[Entry] = []
        for time_ns, header, event in sorted(self._said, key=lambda said: said[0]):
            numbers[header.stream] = numbers.get(header.stream, 0) + 1
            found.append(Entry(header, numbers[header.stream], time_ns, event))
        return found

    def host(self, rank: int) -> str:
        return f"node{rank // self._on_a_host:03}" if self._on_a_host else HOST

    def key(self, rank: int) -> str:
        return process_key(self.host(rank), 4200 + rank, 5)

    def say(self, rank: int, at: float, event: ev.Event) -> None:
        """A record of the rank's own journal."""
        header = FileHeader(
            stream=self.key(rank),
            host=self.host(rank),
            pid=4200 + rank,
            start_ticks=5,
            boot_id="b",
            wall_offset_ns=WALL_OFFSET_NS,
            salt=1,
        )
        self._add(header, at, event)

    def see(self, at: float, event: ev.Event, host: str = HOST) -> None:
        """A record of a host's observer's journal."""
        self._add(observer_of(host), at, event)

    def identity(self, rank: int) -> Identity:
        return Identity(
            launcher="torchrun",
            launch_id="llama-ft",
            global_rank=rank,
            local_rank=rank,
            world_size=self.world,
            local_world_size=self.world,
            master_addr="10.0.0.1",
            master_port=29500,
        )

    def start(self, rank: int, at: float = 0.0) -> None:
        started = ev.ProcessStarted(
            host=self.host(rank),
            pid=4200 + rank,
            start_ticks=5,
            ppid=4100,
            role="rank",
            identity=self.identity(rank),
            command=("python", "train.py", "--model", "llama-tiny"),
            deadlines={"init": 30.0, "group": 30.0, "load": 60.0, "collective": 30.0},
        )
        self.say(rank, at, started)

    def initialize(self, rank: int, at: float) -> None:
        step = ev.StepStarted(step=1, name="init_process_group", deadline_s=30.0)
        self.say(rank, at, step)
        group = ev.GroupCreated(
            pg_name="0",
            pg_desc="default_pg",
            backend="gloo",
            members=self.members,
            timeout_s=1800.0,
        )
        self.say(rank, at + 0.4, group)
        self.say(rank, at + 0.5, ev.StepEnded(step=1))
        confirmed = ev.IdentityConfirmed(global_rank=rank, world_size=self.world, local_rank=rank)
        self.say(rank, at + 0.5, confirmed)

    def load(self, rank: int, at: float) -> None:
        step = ev.StepStarted(
            step=2, name="from_pretrained", label="llama-tiny", deadline_s=60.0, total=3
        )
        self.say(rank, at, step)
        for shard in (1, 2, 3):
            progress = ev.StepProgressed(step=2, done=shard, total=3, label="shards")
            self.say(rank, at + shard * 0.3, progress)
        self.say(rank, at + 1.0, ev.StepEnded(step=2))

    def pulse(self, rank: int, at: float, entered: int, completed: int, moved: float) -> None:
        progress = ev.GroupProgress(
            pg_name="0", enqueued=entered, completed=completed, changed_ns=int(moved * SECOND)
        )
        operations = tuple(
            ev.Operation(
                number=seq,
                op="allreduce",
                pg_name="0",
                seq=seq,
                entered_ns=int((moved - entered + seq) * SECOND),
                left_ns=0 if seq > completed else int((moved - entered + seq + 0.2) * SECOND),
                numel=4096,
                dtype="float32",
            )
            for seq in range(1, entered + 1)
        )
        pulse = ev.Pulse(beat=int(at * 2), beat_ns=int(at * SECOND), groups=(progress,))
        self.see(at, ev.PulseRead(process=self.key(rank), pulse=pulse, operations=operations))

    def stack(self, rank: int, at: float, frames: Iterable[ev.Frame]) -> None:
        main = ev.ThreadStack(
            name="MainThread", os_thread_id=4200 + rank, active=True, frames=tuple(frames)
        )
        agent = ev.ThreadStack(name="distwatch", os_thread_id=9000 + rank, frames=(AGENT_LOOP,))
        self.see(at, ev.StackTaken(process=self.key(rank), threads=(main, agent)))

    def machine(self, at: float) -> None:
        """What the observer says about the host."""
        host = ev.HostSampled(
            host=HOST,
            memory_total=33 << 30,
            memory_available=20 << 30,
            cgroup_limit=16 << 30,
            cgroup_used=14 << 30,
            cpus=8,
            load=4.2,
        )
        self.see(at, host)
        self.see(at, ev.DevicesSampled(host=HOST, not_observed="no NVIDIA driver on this host"))

    def _add(self, header: FileHeader, at: float, event: ev.Event) -> None:
        self._said.append((round(at * SECOND), header, event))


AGENT_LOOP = ev.Frame(
    function="_beat", file="/opt/venv/lib/python3.11/distwatch/agent/core.py", line=9
)
_BEGINNING = (
    ev.Frame(function="<module>", file="/job/train.py", line=96),
    ev.Frame(function="main", file="/job/train.py", line=81),
)
READING = (
    *_BEGINNING,
    ev.Frame(function="__next__", file=f"{TORCH}/utils/data/dataloader.py", line=733),
    ev.Frame(function="_next_data", file=f"{TORCH}/utils/data/dataloader.py", line=789),
    ev.Frame(function="fetch", file=f"{TORCH}/utils/data/_utils/fetch.py", line=52),
    ev.Frame(function="__getitem__", file="/job/data_loader.py", line=41),
)
WAITING = (
    *_BEGINNING,
    ev.Frame(function="train_step", file="/job/train.py", line=63),
    ev.Frame(function="wrapper", file=f"{TORCH}/distributed/c10d_logger.py", line=83),
    ev.Frame(function="all_reduce", file=f"{TORCH}/distributed/distributed_c10d.py", line=2810),
)


def sighted(key: str, pid: int, ppid: int, role: str, identity: Identity) -> ev.ProcessSighted:
    return ev.ProcessSighted(
        process=key, host=HOST, pid=pid, start_ticks=5, ppid=ppid, role=role, identity=identity
    )


def hung_job() -> Script:
    """Four ranks: 2 is stuck in its data loader since 21 s, the others wait in all_reduce #5."""
    script = Script(4)
    started = ev.ObserverStarted(host=HOST, pid=77, distwatch_version="0.1.0")
    script.see(0.1, started)
    script.see(0.2, sighted("node01-4100.5", 4100, 1, "launcher", Identity(launcher="torchrun")))
    for rank in range(4):
        script.start(rank, 0.5 + rank / 10)
        script.initialize(rank, 2.0 + rank / 10)
        script.load(rank, 4.0 + rank / 10)
    worker = sighted("node01-4302.5", 4302, 4202, "dataloader", script.identity(2))
    script.see(6.0, worker)
    script.machine(7.0)
    script.pulse(2, 60.0, 4, 4, 20.0)
    for rank in (0, 1, 3):
        script.pulse(rank, 60.0, 5, 4, 21.0)
    for rank in range(4):
        letter, place = ("D", "/mnt/nfs/tokens-00017.bin") if rank == 2 else ("S", "socket:[8812]")
        sample = ev.ProcessSampled(
            process=script.key(rank), state=letter, cpu_s=31.5 + rank, rss_bytes=(3 << 30) + rank * (1 << 27),
            threads=18, blocked_on=place, wchan="folio_wait_bit" if rank == 2 else "futex_wait_queue",
        )  # fmt: skip
        script.see(61.0, sample)
        script.stack(rank, 61.5, READING if rank == 2 else WAITING)
    for rank in range(4):
        entered, moved = (4, 20.0) if rank == 2 else (5, 21.0)
        script.pulse(rank, 62.0, entered, 4, moved)
    script.see(62.5, ev.Ticked(host=HOST))
    return script


def healthy_job() -> Script:
    """Four ranks, all of them through all_reduce #9 a second ago."""
    script = Script(4)
    for rank in range(4):
        script.start(rank, 0.5)
        script.initialize(rank, 2.0)
        script.pulse(rank, 30.0, 9, 9, 29.0)
        script.stack(rank, 30.0, WAITING[:3])
    script.see(30.0, ev.Ticked(host=HOST))
    return script


def failed_job() -> Script:
    """Rank 1 ended by an exception, rank 3 was never seen."""
    script = Script(4)
    for rank in (0, 1, 2):
        script.start(rank, 0.5)
        script.initialize(rank, 2.0)
        script.pulse(rank, 9.0, 2, 2, 8.0)
    error = ev.ExceptionUncaught(
        type_name="ValueError",
        message="token id 50301 is not in the vocabulary",
        traceback=(
            '  File "/job/data_loader.py", line 77, in encode',
            "ValueError: token id 50301",
        ),
        site=ev.Site(file="/job/data_loader.py", line=77, function="encode"),
    )
    script.say(1, 9.5, error)
    script.see(10.0, ev.ExitSeen(process=script.key(1), exit_code=1, how="pidfd"))
    script.see(
        12.0,
        ev.NotObserved(
            host=HOST, what="stack", why="no permission to ptrace", process=script.key(0)
        ),
    )
    script.see(12.0, ev.UnknownEvent(kind="moon_phase_seen", payload=b""))
    return script


def large_job(world: int) -> Script:
    """Many ranks that run; every hundredth waits."""
    script = Script(world)
    for rank in range(world):
        script.start(rank, 0.5)
        script.initialize(rank, 2.0)
        script.pulse(rank, 20.0, 3, 2 if rank % 100 == 0 else 3, 19.0)
    script.see(20.0, ev.Ticked(host=HOST))
    return script


def large_hang(world: int) -> Script:
    """Eight ranks a host; one of them never comes to all_reduce #4, in which all others wait."""
    script = Script(world, on_a_host=8)
    missing = world * 3 // 7
    for rank in range(world):
        script.start(rank, 0.5)
        script.initialize(rank, 2.0)
        entered = 3 if rank == missing else 4
        script.pulse(rank, 60.0, entered, 3, 20.0 + entered)
        script.stack(rank, 60.0, READING if rank == missing else WAITING)
    for host in sorted({script.host(rank) for rank in range(world)}):
        script.see(62.0, ev.Ticked(host=host), host)
    return script


class Records(Protocol):
    """What a source is made from: a script of this file, or a `LoadingJob`."""

    @property
    def entries(self) -> Sequence[Record]: ...


class Record(Protocol):
    @property
    def header(self) -> FileHeader: ...
    @property
    def seq(self) -> int: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def event(self) -> ev.Event: ...


class ScriptedSource:
    """A RunSource over a script. Live, it tells what `reach` lets it; recorded, what `seek` asks."""

    findings = None

    def __init__(self, script: Records, *, live: bool = True, until: float | None = None) -> None:
        self.run_id = "llama-ft"
        self.live = live
        self.note = "observer pid 77" if live else "replay"
        self.state = RunState(run_id=self.run_id)
        self.failure: Exception | None = None
        self.dumps = 0
        self.closed = False
        self._entries = script.entries
        self._told = 0
        last = self._entries[-1].time_ns if self._entries else 0
        self._until_ns = last if until is None else int(until * SECOND)
        first = self._entries[0].time_ns if self._entries else 0
        self.span: tuple[int, int] | None = None if live else (first, last)
        self.cursor_ns = 0 if live else last

    def reach(self, at: float) -> None:
        """Live: what happened up to then is there to be read."""
        self._until_ns = int(at * SECOND)

    async def open(self) -> None:
        self._fail_if_told()
        if self.live:
            await self.poll()
        else:
            self.seek(self.cursor_ns)

    async def poll(self) -> bool:
        self._fail_if_told()
        before = self._told
        if self.live:
            self._fold(self._until_ns)
        return self._told > before

    async def dump(self) -> str:
        self._fail_if_told()
        self.dumps += 1
        return "incident written to /run/incidents/1"

    def seek(self, time_ns: int) -> None:
        self.cursor_ns = time_ns
        self.state = RunState(run_id=self.run_id)
        self._told = 0
        self._fold(time_ns)

    async def close(self) -> None:
        self.closed = True

    def _fail_if_told(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _fold(self, until_ns: int) -> None:
        while self._told < len(self._entries) and self._entries[self._told].time_ns <= until_ns:
            entry = self._entries[self._told]
            reduce(self.state, entry.header, entry.seq, entry.time_ns, entry.event)
            self._told += 1


def state_of(script: Script) -> RunState:
    """The script's end, folded."""
    source = ScriptedSource(script, live=False)
    source.seek(source.cursor_ns)
    return source.state


def clock_at(seconds: float) -> int:
    """The wall clock at that time of a script."""
    return WALL_OFFSET_NS + int(seconds * SECOND)
