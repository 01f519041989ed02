"""Finds the processes of a run on this node, samples them while they live, and records their ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

import msgspec

from distwatch.observer.background import in_background
from distwatch.observer.journals.reading import sighting_of_start
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.flows import Flows
from distwatch.probes import discovery, process
from distwatch.probes.error_files import error_file_of, read_error_file
from distwatch.probes.exits import ExitWatch
from distwatch.probes.procfs import children_of
from distwatch.probes.repeated_output import look_at_output
from distwatch.runfolder import is_alive
from distwatch.state import events as ev
from distwatch.state.bounds import whole_number
from distwatch.state.frames import FileHeader
from distwatch.state.identity import Identity

ASKED_FOR_S = 90.0
"""For so long after a root's request its trouble is ours; it asks at least once a minute while it lasts."""
CHILDREN_EVERY_S = 5.0
CHILDREN_KEPT = 2048
"""A rank that starts a process every second must not fill the journal with them."""
SEARCH_FIRST_S = 1.0
SEARCH_MOST_S = 60.0


class Tracked(msgspec.Struct, kw_only=True):
    """One process. `watch` is None once the process has ended, or where it cannot be watched."""

    key: str
    pid: int
    ticks: int
    role: str
    ppid: int = 0
    below_program: bool = False
    """Whether it descends from a program that is no rank."""
    error_file: str = ""
    watch: ExitWatch | None = None
    ended: bool = False
    paused: bool = False
    """Whether the observer itself pauses it: then its state is not its own."""
    woken: bool = False
    """Whether it has done so since what the process moves was looked at."""


class Tracking:
    """Keeps the process table of one run."""

    def __init__(self, recording: Recording, over: Iterable[str] = ()) -> None:
        """`over`: processes whose ends an earlier observer recorded."""
        self._recording = recording
        self._over = frozenset(over)
        self.processes: dict[str, Tracked] = {}
        self._silent_logs: set[str] = set()
        self._looked_for_children = 0.0
        self._children: set[int] = set()
        """Pids that have been examined; a reused pid is rare enough to be ignored."""
        self._next_search = 0.0
        self._search_every = SEARCH_FIRST_S
        self._flows = Flows()
        self._closely_until = 0.0

    def add_start(self, start: dict[str, str]) -> None:
        """Tracks the process of a start record."""
        sighted = sighting_of_start(start)
        # On a shared disk, other nodes leave their records here, too: their pids are not of this node.
        if sighted is not None and sighted.host == self._recording.header.host:
            if is_alive(sighted.pid, sighted.start_ticks):
                command = discovery.read_command(sighted.pid)
                sighted = msgspec.structs.replace(sighted, command=command)
            self._recording.record(sighted)
            self._track(sighted)
            self._sight_launcher(sighted.ppid)

    def add_agent(self, header: FileHeader) -> None:
        """Tracks the writer of a ring."""
        self._watch(
            Tracked(key=header.stream, pid=header.pid, ticks=header.start_ticks, role="agent")
        )

    def add_sighting(self, sighted: ev.ProcessSighted) -> None:
        """Tracks a process that was found in the process table."""
        if sighted.process not in self.processes and sighted.process not in self._over:
            self._recording.record(sighted)
            self._track(sighted)

    def add_attached(self, keys: Iterable[str]) -> bool:
        """Tracks processes without an agent, as an `attach` has noted them; whether it has noted any."""
        keys = list(keys)
        for key in keys:
            pid = whole_number(key.rpartition(".")[0].rpartition("-")[2])
            sighted = discovery.sight(pid) if pid else None
            if sighted is not None and sighted.process == key:
                self.add_sighting(sighted)
        return bool(keys)

    def is_search_due(self) -> bool:
        """Whether it is time to look for ranks without distwatch, if some are missing."""
        return time.monotonic() >= self._next_search

    def search(self, identity: Identity | None, complete: bool) -> None:
        """Looks for ranks without distwatch while ranks are missing, less and less often."""
        now = time.monotonic()
        if complete or identity is None or now < self._next_search:
            return
        self._next_search = now + self._search_every
        self._search_every = min(2 * self._search_every, SEARCH_MOST_S)
        for sighted in discovery.ranks_of(identity):
            self.add_sighting(sighted)

    def look_for_children(self) -> None:
        """Finds dataloader workers and other children of ranks."""
        now = time.monotonic()
        if now - self._looked_for_children < CHILDREN_EVERY_S:
            return
        self._looked_for_children = now
        for tracked in self.living():
            if tracked.role in ("dataloader", "child", "launcher") and not tracked.below_program:
                continue
            for child in children_of(tracked.pid, [tracked.pid]):
                self._sight_child(child, tracked)

    def watch_closely(self) -> None:
        """Somebody on another host waits, which this host may not see: looks closely, now and for some time."""
        self._closely_until = time.monotonic() + ASKED_FOR_S
        self.sample()

    def sample(self, *, closely: bool = False) -> None:
        """The cheap look at every living process; every change of state is journaled.

        Args:
            closely: somebody waits: also look at what each of them moves.
        """
        closely = closely or time.monotonic() < self._closely_until
        if closely:
            self._flows.count_received()
        for tracked in self._unpaused():
            seen = process.sample(tracked.key, tracked.pid)
            if seen is None:
                continue
            if closely:
                flow = self._flows.look(tracked.key, tracked.pid, woken=tracked.woken)
                tracked.woken = False
                seen = msgspec.structs.replace(seen, flow=flow)
            self._recording.record(seen)
            # A worker that ends soon must be known before its end.
            if tracked.role in ("rank", "agent", "other") or tracked.below_program:
                for child in seen.children:
                    self._sight_child(child, tracked)

    async def examine(self) -> None:
        """The thorough look at every living process; records which one cannot be read in time."""
        for tracked in self._unpaused():
            try:
                # Reading the memory of a process that is stuck in the kernel may block.
                seen, awaited = await in_background(_examine, tracked.key, tracked.pid)
            except asyncio.TimeoutError:
                why = f"/proc/{tracked.pid} did not answer: the process holds its memory map"
                self._recording.miss("process", why, tracked.key)
                continue
            self._flows.await_sockets(tracked.key, awaited)
            if seen is not None and not tracked.ended:
                flow = self._flows.newest(tracked.key)
                self._recording.record(msgspec.structs.replace(seen, flow=flow), keep=True)

    async def see_outputs(self, chosen: Iterable[Tracked]) -> None:
        """Looks at the logs of some processes that others wait for: whether they write the same over and over."""
        for tracked in chosen:
            if tracked.key in self._silent_logs or tracked.ended:
                continue
            try:
                seen = await in_background(look_at_output, tracked.pid)
            except asyncio.TimeoutError:
                # A file system that hangs answers no such question: each more would leave a thread behind.
                self._silent_logs.add(tracked.key)
                continue
            self._flows.note_output(tracked.key, seen)

    def is_living(self, key: str) -> bool:
        """Whether that process is tracked and has not ended."""
        tracked = self.processes.get(key)
        return tracked is not None and not tracked.ended

    def living(self) -> list[Tracked]:
        return [tracked for tracked in self.processes.values() if not tracked.ended]

    def _unpaused(self) -> list[Tracked]:
        return [tracked for tracked in self.living() if not tracked.paused]

    def collect_ends(self) -> list[Tracked]:
        """Records the ends of processes since the last call, and returns those processes."""
        ended: list[Tracked] = []
        for tracked in self.living():
            if tracked.watch is not None:
                if not tracked.watch.has_ended():
                    continue
                seen = tracked.watch.collect()
                tracked.watch.close()
                tracked.watch = None
            elif is_alive(tracked.pid, tracked.ticks):
                continue
            else:
                seen = ev.ExitSeen(process=tracked.key, how="gone before it could be watched")
            tracked.ended = True
            self._recording.record(seen)
            if tracked.error_file and (left := read_error_file(tracked.key, tracked.error_file)):
                self._recording.record(left)
            ended.append(tracked)
        return ended

    def close(self) -> None:
        for tracked in self.processes.values():
            if tracked.watch is not None:
                tracked.watch.close()

    def _track(self, sighted: ev.ProcessSighted) -> None:
        self._watch(
            Tracked(
                key=sighted.process,
                pid=sighted.pid,
                ticks=sighted.start_ticks,
                role=sighted.role,
                ppid=sighted.ppid,
                error_file=error_file_of(sighted.pid) if sighted.role == "rank" else "",
            )
        )

    def _watch(self, tracked: Tracked) -> None:
        if tracked.key in self.processes or tracked.key in self._over:
            return
        self.processes[tracked.key] = tracked
        with contextlib.suppress(OSError):
            tracked.watch = ExitWatch(tracked.key, tracked.pid, tracked.ticks)

    def _sight_child(self, pid: int, parent: Tracked) -> None:
        if pid in self._children or len(self._children) >= CHILDREN_KEPT:
            return
        self._children.add(pid)
        sighted = discovery.sight(pid)
        if sighted is None:
            return
        below_program = parent.role == "other" or parent.below_program
        if sighted.role == "other" and below_program:
            # Of a program that is no rank, no variable shows whose child it is.
            sighted = msgspec.structs.replace(sighted, role="child")
        if sighted.role in ("dataloader", "child"):
            self.add_sighting(sighted)
            if (tracked := self.processes.get(sighted.process)) is not None:
                tracked.below_program = below_program

    def _sight_launcher(self, ppid: int) -> None:
        if any(tracked.pid == ppid for tracked in self.processes.values()):
            return
        sighted = discovery.sight(ppid)
        if sighted is not None and sighted.role == "launcher":
            self.add_sighting(sighted)


def _examine(key: str, pid: int) -> tuple[ev.ProcessSampled | None, set[str]]:
    """What `examine` finds, and the sockets that its main thread waits on."""
    return process.examine(key, pid), process.awaited_sockets(pid, thorough=True)
