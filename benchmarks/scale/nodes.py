"""Synthetic nodes: the real leaf's code, with ranks that exist only as the events of real ones.

Kinds, sizes and rates are those of a recorded torchrun job (gloo, torch 2.13): 26 records per rank
at its start, two pulses and one sample a second of which one in five seconds is journaled, and,
where the root asks for a look, a stack, a sample, connections and the recorder's 64 entries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import msgspec

from distwatch.observer.journals.reading import Entry
from distwatch.observer.journals.recording import KEEP_EVERY_NS
from distwatch.observer.link.leaf import Leaf
from distwatch.observer.link.root_address import RootAddress
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.finding import Finding
from distwatch.state.frames import FileHeader, Record, process_key
from distwatch.state.identity import Identity
from scale.ranks import Training, dump_of, pulse_of, sample_of, stack_of, start_of

TICK_S = 0.5
HOST_EVERY_S = 5.0
OBSERVER_PID = 900
LAUNCHER_PID = 901
FIRST_PID = 1000
BATCH = 8
"""Ranks that a node does at one go before others have their turn."""


class Judged:
    of_one_host = False


class Stream:
    """A journal of which the root gets every record."""

    def __init__(self, node: Node, header: FileHeader) -> None:
        self.header = header
        self._node = node
        self._seq = 0

    def record(self, event: ev.Event, *, keep: bool = True) -> None:
        """Journals an event, or has it seen as a live value only."""
        now = time.monotonic_ns()
        if keep:
            self._seq += 1
            record = Record(seq=self._seq, time_ns=now, payload=encode_event(event))
            for take in self._node.record_sinks:
                take(self.header, record)
        entry = Entry(self.header, self._seq if keep else 0, now, event)
        for sink in self._node.sinks:
            sink(entry)


class Node:
    """Stands for one host's observer: what `Leaf` asks of an `Observer`, and nothing else.

    Attributes:
        looks: when each look that the root asked for began (CLOCK_MONOTONIC ns).
        fell_behind: the link did not keep up: the measurement is void.
    """

    def __init__(self, folder: str, index: int, ranks: list[int], training: Training) -> None:
        self.host = f"node{index:03}"
        self.folder = RunFolder(folder)
        self.ranks = ranks
        self.sinks: list = []
        self.record_sinks: list = []
        self.judge = Judged()
        self.looks: list[int] = []
        self.fell_behind = False
        self._training = training
        self._index = index
        self.recording = Stream(self, self._header(OBSERVER_PID, observer=True))
        self.keys = {rank: self._key(FIRST_PID + n) for n, rank in enumerate(ranks)}
        self._own = {
            rank: Stream(self, self._header(FIRST_PID + n)) for n, rank in enumerate(ranks)
        }
        self._due: dict[object, float] = {}
        self._dumped = self._dumped_judged = False
        self._connections_told = False
        self._told_verdict = False
        self._beat = 0
        self.leaf: Leaf | None = None

    def link(self, place: RootAddress, token: bytes) -> None:
        """Connects as a leaf does."""
        self.leaf = Leaf(self, place, token)  # type: ignore[arg-type]
        self.leaf.start()

    def hears(self) -> bool:
        """Whether the root takes what is new. A node has no files: what it would have to read again is lost."""
        return self.leaf is not None and self.leaf.linked and not self.leaf._backlog.behind

    async def start_ranks(self) -> None:
        """All that a node tells until its ranks train, once the root hears it."""
        while not self.hears():
            await asyncio.sleep(0.5)
        self.recording.record(ev.ObserverStarted(host=self.host, pid=OBSERVER_PID))
        self._sight(LAUNCHER_PID, "launcher", None)
        for n, rank in enumerate(self.ranks):
            self._sight(FIRST_PID + n, "rank", rank)
            started = self._started(n, rank)
            for event in start_of(started, self._training):
                self._own[rank].record(event)
            if n % BATCH == 0:
                await asyncio.sleep(0)

    async def tick_for_ever(self, offset_s: float) -> None:
        """Pulses, samples and ticks at the rates of a real observer."""
        await asyncio.sleep(offset_s)
        due = time.monotonic()
        while True:
            self.fell_behind = self.fell_behind or not self.hears()
            await self._tick()
            # More often than anybody wants them, values would only cost this process time.
            due += max(TICK_S, self.leaf._wanted.live_every_s / 4 if self.leaf else 0.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def look(self, why: str, *, ask: bool) -> None:
        """As `Observer.look`: a stack and a sample of every rank, and their recorders' dumps."""
        self.looks.append(time.monotonic_ns())
        # A real inspection asks for dumps at its first look, and when its own verdict has changed.
        judged = self._training.is_overdue()
        asks = ask or not self._dumped or (judged and not self._dumped_judged)
        self._dumped, self._dumped_judged = True, judged
        for n, rank in enumerate(self.ranks):
            key = self.keys[rank]
            if asks:
                self._own[rank].record(dump_of(self._training, rank, why))
            if not self._connections_told:
                self.recording.record(ev.ConnectionsSeen(process=key))
            self.recording.record(stack_of(self._training, rank, key, FIRST_PID + n))
            self.recording.record(sample_of(self._training, rank, key))
            self.recording.record(self._shortened(rank))
            if n % BATCH == 0:
                await asyncio.sleep(0)
        self._connections_told = True
        self.recording.record(ev.Ticked(host=self.host))
        if judged:
            self._tell_own_verdict()

    async def _tick(self) -> None:
        self._beat += 1
        for n, rank in enumerate(self.ranks):
            key = self.keys[rank]
            pulse = pulse_of(self._training, rank, key, self._beat)
            if self._is_due(("pulse", rank), KEEP_EVERY_NS / 1e9, n):
                self.recording.record(self._shortened(rank))
            else:
                self.recording.record(pulse, keep=False)
            if self._beat % 2 == 0:
                kept = self._is_due(("sample", rank), KEEP_EVERY_NS / 1e9, n)
                self.recording.record(sample_of(self._training, rank, key), keep=kept)
            if n % BATCH == 0:
                await asyncio.sleep(0)
        if self._is_due("host", HOST_EVERY_S, 0):
            self.recording.record(ev.HostSampled(host=self.host, memory_total=1 << 40, cpus=96))
            self.recording.record(ev.DevicesSampled(host=self.host, not_observed="no driver"))
        kept = self._is_due("tick", KEEP_EVERY_NS / 1e9, 0)
        self.recording.record(ev.Ticked(host=self.host), keep=kept)

    def _shortened(self, rank: int) -> ev.PulseRead:
        """What a journal keeps of a pulse: the newest operations."""
        read = pulse_of(self._training, rank, self.keys[rank], self._beat)
        return msgspec.structs.replace(read, operations=read.operations[-8:])

    def _tell_own_verdict(self) -> None:
        """A leaf judges its own ranks, too, and blames nobody whom it does not see."""
        if self._told_verdict:
            return
        self._told_verdict = True
        mine = self._training.missing in self.keys
        verdict = Finding(
            code="collective.rank_missing",
            severity="hang",
            summary="ranks elsewhere never entered all_reduce of default_pg",
            advice="Look at the root's verdict.",
            role="root",
            culprit_ranks=(self._training.missing,) if mine else (),
            waiting_ranks=tuple(r for r in self.ranks if r != self._training.missing),
            pg_name="0",
            confidence=0.3,
        )
        self.recording.record(
            ev.FindingsJudged(host=self.host, findings=(verdict,), incident=1, of_one_host=True)
        )

    def _is_due(self, what: object, every_s: float, offset: int) -> bool:
        now = time.monotonic()
        due = self._due.get(what)
        if due is None:
            # Ranks that started together are not all journaled in one tick.
            self._due[what] = now + every_s * ((offset % 10) / 10)
            return False
        if now < due:
            return False
        self._due[what] = now + every_s
        return True

    def _sight(self, pid: int, role: str, rank: int | None) -> None:
        self.recording.record(
            ev.ProcessSighted(
                process=self._key(pid), host=self.host, pid=pid, start_ticks=1, ppid=1, role=role,
                identity=self._identity(rank), instrumented=rank is not None,
            )
        )  # fmt: skip

    def _identity(self, rank: int | None) -> Identity:
        return Identity(
            launcher="torchrun", launch_id="scale", global_rank=rank,
            local_rank=None if rank is None else self.ranks.index(rank), node_rank=self._index,
            world_size=self._training.world, local_world_size=len(self.ranks),
            master_addr="node000", master_port=29500, agent_store=True,
        )  # fmt: skip

    def _started(self, n: int, rank: int) -> ev.ProcessStarted:
        return ev.ProcessStarted(
            host=self.host, pid=FIRST_PID + n, start_ticks=1, ppid=LAUNCHER_PID, role="rank",
            identity=self._identity(rank), command=("/opt/venv/bin/python", "-u", "train.py"),
            python="3.11.7", cwd="/home/user/experiments/large", distwatch_version="0.1.0",
            deadlines={"init": 120.0, "group": 120.0, "load": 900.0,
                       "collective": self._training.deadline_s},
        )  # fmt: skip

    def _key(self, pid: int) -> str:
        return process_key(self.host, pid, 1)

    def _header(self, pid: int, *, observer: bool = False) -> FileHeader:
        salt = (self._index << 16) + pid
        key = self._key(pid)
        return FileHeader(
            stream=f"observer:{key}#{salt:08x}" if observer else key, host=self.host, pid=pid,
            start_ticks=1, boot_id=f"boot-{self._index:03}",
            wall_offset_ns=time.time_ns() - time.monotonic_ns(), salt=salt,
        )  # fmt: skip


def spread(folder: str, nodes: int, ranks: int, training: Training) -> Iterator[Node]:
    """The nodes of a job, each with its share of the ranks, the lowest first."""
    first = 0
    for index in range(nodes):
        count = ranks // nodes + (index < ranks % nodes)
        yield Node(folder, index, list(range(first, first + count)), training)
        first += count
