"""Builds a job's recorded state through real events and the real reducer, rank by rank."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import Identity
from distwatch.state.loads import LoadProgress
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce
from distwatch.state.steps import GROUP, kind_of

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

PEER_LOST = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"


def root(findings: list[Finding]) -> Finding:
    assert findings, "nothing was found"
    assert findings[0].role == "root"
    return findings[0]


class RecordedJob:
    """A job of `world` ranks on one host; times are seconds since its start."""

    def __init__(self, world: int, *, launcher: str = "torchrun", single_node: bool = True) -> None:
        self.state = RunState(run_id="recorded")
        self.world = world
        self.launcher = launcher
        self.local = world if single_node else None
        self.deadlines = DEADLINES
        self.status: dict[int, Identity] = {}
        """Processes that are not what their number says: by that number."""
        self.hosts: dict[int, str] = {}
        self._seq: dict[str, int] = {}
        self.headers: dict[str, FileHeader] = {}
        self.records: dict[str, list[tuple[int, int, ev.Event]]] = {}

    def host(self, rank: int) -> str:
        return self.hosts.get(rank, HOST)

    def key(self, rank: int) -> str:
        return process_key(self.host(rank), 1000 + rank, 5)

    def stand(self, process: int, *, host: str = HOST, **identity: object) -> None:
        """A process beside the ranks, or a rank with another environment or on another host."""
        own = msgspec.structs.replace(self.identity(process), **identity)
        self.status[process], self.hosts[process] = own, host

    def say(self, rank: int, at: float, event: ev.Event) -> None:
        """An event of the rank's own journal."""
        header = FileHeader(
            stream=self.key(rank),
            host=self.host(rank),
            pid=1000 + rank,
            start_ticks=5,
            boot_id="b",
            wall_offset_ns=0,
            salt=1,
        )
        self._fold(header, at, event)

    def see(self, at: float, event: ev.Event, host: str = HOST) -> None:
        """An event of a host's observer's journal."""
        observer = FileHeader(
            stream=f"observer:{host}-1.1",
            host=host,
            pid=1,
            start_ticks=1,
            boot_id="b",
            wall_offset_ns=0,
            salt=1,
        )
        self._fold(observer, at, event)

    def _fold(self, header: FileHeader, at: float, event: ev.Event) -> None:
        seq = self._seq[header.stream] = self._seq.get(header.stream, 0) + 1
        self.headers[header.stream] = header
        self.records.setdefault(header.stream, []).append((seq, int(at * SECOND), event))
        reduce(self.state, header, seq, int(at * SECOND), event)

    def identity(self, rank: int) -> Identity:
        if rank in self.status:
            return self.status[rank]
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
                host=self.host(rank),
                pid=1000 + rank,
                start_ticks=5,
                ppid=999,
                role="rank" if self.identity(rank).global_rank is not None else "other",
                command=("python", "train.py"),
                identity=self.identity(rank),
                deadlines=self.deadlines,
            )
            self.say(rank, at, started)

    def begin(self, rank: int, step: int, name: str, at: float, **more: object) -> None:
        kind = kind_of(name) or GROUP
        started = ev.StepStarted(step=step, name=name, deadline_s=DEADLINES[kind.name], **more)  # type: ignore[arg-type]
        self.say(rank, at, started)

    def plan(self, rank: int, at: float = 1.0, **given: object) -> None:
        """What a rank is about to initialize with; by default what its environment says."""
        identity = self.identity(rank)
        said: dict[str, object] = {
            "global_rank": identity.global_rank,
            "world_size": identity.world_size,
            "endpoint": identity.endpoint or "",
            "backend": "gloo",
            "hosts_store": identity.global_rank == 0 and not identity.agent_store,
            "interfaces": ("lo", "eth0"),
            "site": ev.Site(file="/job/train.py", line=10 + rank, function="main"),
        }
        self.say(rank, at, ev.InitPlanned(**{**said, **given}))  # type: ignore[arg-type]

    def enter(
        self, *ranks: int, at: float = 1.0, step: int = 1, inner: str | None = None, **given: object
    ) -> None:  # fmt: skip
        """The ranks come to an initialization, with their plans, and stay in it.

        As torch does: rank 0 waits in the store for all, the others go on to wait for each other.
        """
        for rank in ranks:
            if self.key(rank) not in self.state.processes:
                self.start(rank)
            self.plan(rank, at, **given)
            site = ev.Site(file="/job/train.py", line=10 + rank, function="main")
            self.begin(rank, step, "init_process_group", at, site=site)
            usual = "rendezvous" if self.identity(rank).global_rank == 0 else "new_process_group"
            self.say(rank, at, ev.StepStarted(step=step + 1, name=inner or usual, parent=step))

    def form(
        self, *ranks: int, at: float = 2.0, step: int = 1, members: tuple[int, ...] | None = None
    ) -> None:
        """What the ranks have entered comes to a good end."""
        for rank in ranks:
            process = self.state.processes[self.key(rank)]
            world = tuple(range(process.world_size or self.world)) if members is None else members
            self.say(rank, at, ev.StepEnded(step=step + 1))
            self.hold(rank, "0", world, desc="default_pg", at=at)
            self.say(rank, at, ev.StepEnded(step=step))
            number = process.global_rank if process.global_rank is not None else rank
            self.say(rank, at, ev.IdentityConfirmed(global_rank=number, world_size=len(world)))

    def refuse(
        self, rank: int, at: float, error: str, step: int = 1, *, uncaught: bool = True
    ) -> None:
        """A rank's initialization fails with `TypeName: message`, which by default ends it."""
        if self.state.processes[self.key(rank)].steps.get(step + 1) is not None:
            self.say(rank, at, ev.StepEnded(step=step + 1, error=error))
        self.say(rank, at, ev.StepEnded(step=step, error=error))
        if uncaught:
            kind, _, message = error.partition(": ")
            self.fail(rank, at, kind, message)
            self.exit(rank, at + 0.2, code=1)

    def probe(
        self, outcome: str, at: float, *, endpoint: str = "10.0.0.1:29500", host: str = HOST, **more: object
    ) -> None:  # fmt: skip
        """A look of a host's observer at an endpoint."""
        looked = ev.EndpointProbed(host=host, endpoint=endpoint, outcome=outcome, **more)  # type: ignore[arg-type]
        self.see(at, looked, host)

    def mesh(self, rank: int, at: float, axes: dict[str, int]) -> None:
        """A device mesh over the whole world."""
        made = ev.MeshMade(
            device="cpu", axes=tuple(axes), sizes=tuple(axes.values()), members=tuple(range(self.world)),
            site=ev.Site(file="/job/train.py", line=50 + rank, function="mesh"),
        )  # fmt: skip
        self.say(rank, at, made)

    def call_group(
        self,
        rank: int,
        at: float,
        number: int,
        members: tuple[int, ...] | None,
        *,
        stays: bool = False,
    ) -> None:
        """A call of `new_group`, which returns at once or never."""
        site = ev.Site(file="/job/train.py", line=100 + number, function="groups")
        self.say(rank, at, ev.GroupCalled(number=number, members=members, site=site))
        self.begin(rank, 100 + number, f"new_group #{number}", at, site=site)
        if not stays:
            self.say(rank, at, ev.StepEnded(step=100 + number))

    def raise_finding(self, rank: int, at: float, step: str, **finding: object) -> None:
        """What a process found itself."""
        found = Finding(
            **{"severity": "hang", "summary": "found inside", "advice": "do", **finding}
        )  # type: ignore[arg-type]
        self.say(rank, at, ev.FindingRaised(finding=found, step=step))

    def launch(self, pid: int = 999, at: float = 0.0, host: str = HOST) -> str:
        """A torchrun that started the ranks; its key."""
        key = process_key(host, pid, 4)
        sighted = ev.ProcessSighted(
            process=key, host=host, pid=pid, start_ticks=4, ppid=1, role="launcher", identity=Identity(),
            command=("torchrun", "train.py"),
        )  # fmt: skip
        self.see(at, sighted, host)
        return key

    def initialize(self, *ranks: int, at: float = 1.0, timeout_s: float = 1800.0) -> None:
        """Starts the ranks and forms the default group."""
        for rank in ranks:
            if self.key(rank) not in self.state.processes:
                self.start(rank)
            self.begin(rank, 1, "init_process_group", at)
            members = tuple(range(self.world))
            self.hold(rank, "0", members, desc="default_pg", at=at, timeout_s=timeout_s)
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
        peers: tuple[ev.PeerProgress, ...] = (),
        loads: tuple[LoadProgress, ...] = (),
    ) -> None:
        """A pulse: group name → (enqueued, completed, when that last changed)."""
        progress = tuple(
            ev.GroupProgress(pg_name=n, enqueued=e, completed=c, changed_ns=int(changed * SECOND))
            for n, (e, c, changed) in (groups or {}).items()
        )
        pulse = ev.Pulse(
            beat=int(at * 2) + 1,
            beat_ns=int(at * SECOND),
            groups=progress,
            peers=peers,
            loads=loads,
        )
        read = ev.PulseRead(process=self.key(rank), pulse=pulse, operations=operations)
        self.see(at, read, self.host(rank))

    def operation(
        self, rank: int, op: str, seq: int, *, at: float, site: int = 0, numel: int = 64, left: float = 0.0,
        pg_name: str = "0", dtype: str = "float32", number: int | None = None,
    ) -> ev.Operation:  # fmt: skip
        return ev.Operation(
            number=number or seq, op=op, pg_name=pg_name, seq=seq, site=site, numel=numel, dtype=dtype,
            entered_ns=int(at * SECOND), left_ns=int(left * SECOND),
        )  # fmt: skip

    def peer(
        self, rank: int, op: str, peer: int, *, at: float, posted: int, tag: int = 0, pg_name: str = "0",
        number: int = 1, left: float = 0.0,
    ) -> ev.Operation:  # fmt: skip
        """A send or recv, the `posted`-th of its kind."""
        return ev.Operation(
            number=number, op=op, pg_name=pg_name, peer=peer, tag=tag, p2p_seq=posted, numel=8,
            dtype="float32", entered_ns=int(at * SECOND), left_ns=int(left * SECOND),
        )  # fmt: skip

    def stack(
        self, rank: int, at: float, frames: tuple[ev.Frame, ...],
        looked: dict[str, object] | None = None, **more: object,
    ) -> None:  # fmt: skip
        """A look at a rank's main thread; `looked`: what else the look says."""
        thread = ev.ThreadStack(name="MainThread", os_thread_id=1000 + rank, frames=frames, **more)  # type: ignore[arg-type]
        taken = ev.StackTaken(process=self.key(rank), threads=(thread,), **(looked or {}))  # type: ignore[arg-type]
        self.see(at, taken, self.host(rank))

    def sample(self, rank: int, at: float, state: str, **more: object) -> None:
        sampled = ev.ProcessSampled(process=self.key(rank), state=state, **more)  # type: ignore[arg-type]
        self.see(at, sampled, self.host(rank))

    def sight(self, rank: int, at: float) -> None:
        """A rank without distwatch, seen in the process table."""
        sighted = ev.ProcessSighted(
            process=self.key(rank), host=self.host(rank), pid=1000 + rank, start_ticks=5, ppid=999, role="rank",
            identity=self.identity(rank),
        )  # fmt: skip
        self.see(at, sighted, self.host(rank))

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
        self.see(at, seen, self.host(rank))

    def tick(self, at: float) -> None:
        for host in sorted({HOST, *self.hosts.values()}):
            self.see(at, ev.Ticked(host=host), host)


def judged(job: RecordedJob) -> list[Finding]:
    """The verdict, which must not depend on the order in which journals are read."""
    findings = diagnose(job.state)
    for streams in (sorted(job.records), sorted(job.records, reverse=True)):
        state = RunState(run_id="recorded")
        for stream in streams:
            for seq, time_ns, event in job.records[stream]:
                reduce(state, job.headers[stream], seq, time_ns, event)
        assert diagnose(state) == findings, f"read as {streams}"
    for finding in findings:
        assert not set(finding.culprit_ranks) & set(finding.waiting_ranks), finding
        assert finding.advice
        assert "—" not in finding.summary + finding.advice
    return findings


def blamed(findings: list[Finding]) -> set[int]:
    """Every rank that a hang or a crash blames."""
    return {rank for finding in findings if finding.blocks for rank in finding.culprit_ranks}


def only_root(job: RecordedJob, code: str, *culprits: int) -> Finding:
    """The one root of the verdict, which has that code and those culprits; nobody else is blamed."""
    findings = judged(job)
    told = [f"{f.role} {f.severity} {f.code} {f.culprit_ranks}: {f.summary}" for f in findings]
    roots = [finding for finding in findings if finding.role == "root" and finding.blocks]
    assert [(f.code, f.culprit_ranks) for f in roots] == [(code, culprits)], told
    assert findings[0] is roots[0], told
    assert blamed(findings) <= set(culprits), told
    return roots[0]


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
