"""The closer look: stacks, thorough process samples, connections, flight recorder entries."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.stack_calls import STILL_S
from distwatch.diagnosis.verdict.probe_requests import (
    late_processes,
    lines_of_interest,
    locks_of_interest,
    runs,
    saving,
    waiting_beside,
    worth_a_native_look,
)
from distwatch.observer.background import in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.rounds import Rounds
from distwatch.observer.looks.source_files import SourceReader, wanted_files
from distwatch.observer.looks.stack_looks import ASK_WITHIN_S, StackLooks, ask
from distwatch.observer.looks.tracking import Tracked, Tracking
from distwatch.probes.connections import examine_connections
from distwatch.probes.lock_files import look_at_lock
from distwatch.probes.sources import read_lines
from distwatch.probes.written_files import with_free_space, written_files
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import RunState

PAUSES_S = (3.0, 10.0, 30.0, 60.0)
AGAIN_S = 3.0
FRESH_S = 2.0
BESIDE_EVERY_S, BESIDE_OF_ALL = 5.0, 2
BESIDE_PAUSES_S = (5.0, 20.0, 60.0)
"""A host may have a hundred actors that wait for work: looks at them must not cost much."""
_LOCKS = 8
_LOGS = 16
_LOOKED_AT = ("rank", "agent", "other")


class Inspection:
    """Looks on suspicion, and then less and less often: a long hang must not cost much."""

    def __init__(
        self, recording: Recording, tracking: Tracking, state: RunState, *, embedded: bool = False
    ) -> None:
        self._recording = recording
        self._tracking = tracking
        self._state = state
        self._stacks = StackLooks(recording)
        self._rounds = Rounds(PAUSES_S)
        self._task: asyncio.Task[None] | None = None
        self._native: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None
        self._again_due = 0.0
        self._beside: asyncio.Task[None] | None = None
        self._beside_due = 0.0
        self._beside_rounds: dict[str, Rounds] = {}
        self._sources = SourceReader(recording.record)
        self._reading: asyncio.Task[None] | None = None
        self._silent_storage: set[str] = set()
        """Processes of which nobody could say how much space is left where they write."""
        self._ask = True
        self._embedded = embedded
        self._looked = 0.0

    @property
    def from_outside(self) -> bool:
        """Whether a viewer watches ranks of which nothing but their stacks tells what was under way when it came."""
        processes = self._state.processes.values()
        return self._embedded and not any(process.known_from_start for process in processes)

    @property
    def is_fresh(self) -> bool:
        """Whether a round has just ended: another one would see the same."""
        return not self.running and time.monotonic() - self._looked < FRESH_S

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def close(self) -> None:
        """Nothing that a look finds later is recorded."""
        self._sources.close()

    def consider(self, why: str, *, sockets: dict[str, str]) -> asyncio.Task[None] | None:
        """Starts a round if one is due for that reason ('': nothing is suspicious); returns it.

        Args:
            sockets: the agents' control sockets, by process key.
        """
        are_due = self._rounds.are_due(why)
        self._ask = self._ask or self._rounds.are_over
        return self.begin(why, sockets) if are_due and not self.running else None

    def begin(self, why: str, sockets: dict[str, str], *, ask: bool = False) -> asyncio.Task[None]:
        """Starts a round now, or returns the one under way. `ask`: also ask the agents for dumps."""
        self._ask = self._ask or ask
        if self._task is None or self._task.done():
            self._rounds.begin()
            self._task = asyncio.create_task(self._look(why, sockets))
        return self._task

    def look_natively(self, findings: list[Finding], jobs: list[Job]) -> asyncio.Task[None] | None:
        """Takes C frames of culprits whose Python frames do not explain the hang; None: none are due."""
        if self._native is not None and not self._native.done():
            return None
        keys = worth_a_native_look(self._state, findings, jobs)
        chosen = self._stacks.not_yet_native(keys, self._tracking.living())
        if not chosen:
            return None
        self._native = asyncio.create_task(self._stacks.take_native(chosen))
        return self._native

    def look_at_late(
        self, findings: list[Finding], jobs: list[Job], sockets: dict[str, str]
    ) -> asyncio.Task[None] | None:
        """Takes a few stacks of ranks that run while others wait for them; None: none are due."""
        now = time.monotonic()
        looking = self._again is not None and not self._again.done()
        if looking or self.running or now < self._again_due:
            return None
        late = {process.key: process for process in late_processes(findings, jobs)}
        if not late:
            return None
        self._again_due = now + AGAIN_S
        chosen = [tracked for tracked in self._tracking.living() if tracked.key in late]
        self._again = asyncio.create_task(
            self._see_late(chosen, [one for one in chosen if runs(late[one.key])], sockets)
        )
        return self._again

    def look_beside(
        self, jobs: list[Job], sockets: Callable[[], dict[str, str]]
    ) -> asyncio.Task[None] | None:
        """Takes a stack of a few processes that are in no world, for which no round begins; None: none are due."""
        now = time.monotonic()
        looking = self._beside is not None and not self._beside.done()
        if looking or self.running or self.from_outside or now < self._beside_due:
            return None
        self._beside_due = now + BESIDE_EVERY_S
        host = self._recording.header.host
        living = {tracked.key: tracked for tracked in self._tracking.living()}
        chosen: list[Tracked] = []
        for process in waiting_beside(self._state, jobs, host):
            rounds = self._beside_rounds.setdefault(process.key, Rounds(BESIDE_PAUSES_S))
            due = process.key in living and rounds.are_due("nobody waits for it")
            if due and len(chosen) < BESIDE_OF_ALL:
                rounds.begin()
                chosen.append(living[process.key])
        if not chosen:
            return None
        self._beside = asyncio.create_task(self._see_beside(chosen, sockets()))
        return self._beside

    async def _see_beside(self, chosen: list[Tracked], sockets: dict[str, str]) -> None:
        for tracked in chosen:
            await self._stacks.take(tracked, sockets.get(tracked.key, ""))

    async def _see_late(
        self, late: list[Tracked], running: list[Tracked], sockets: dict[str, str]
    ) -> None:
        await self._tracking.see_outputs(late[:_LOGS])
        await self._stacks.take_again(running, sockets)

    def read_files(self) -> asyncio.Task[None] | None:
        """Reads the source files of a verdict's ranks, if any are unread; None: none are."""
        if self._reading is not None and not self._reading.done():
            return None
        if not wanted_files(self._state, self._recording.header.host):
            return None
        self._reading = asyncio.create_task(self._read_files())
        return self._reading

    def again_soon(self) -> None:
        """The verdict has changed: the next round need not wait."""
        self._rounds.again_soon()
        self._ask = True

    async def _look(self, why: str, sockets: dict[str, str]) -> None:
        # A dump of the recorder holds the GIL of its rank for tens of milliseconds.
        asked, self._ask = (sockets if self._ask else {}), False
        living = self._tracking.living()
        wanted = [tracked for tracked in living if tracked.role in _LOOKED_AT]
        await asyncio.gather(
            self._take_stacks(wanted, living, sockets),
            *(self._ask_for_dump(key, path, why) for key, path in asked.items()),
            *(self._see_connections(tracked) for tracked in wanted),
            self._see_locks(),
            self._tracking.examine(),
            self._tracking.see_outputs(wanted[:_LOGS]),
        )
        await self._see_saves(wanted)
        await self._read_sources(wanted)
        await self._read_files()
        self._looked = time.monotonic()
        if self.from_outside:
            # The second look at ranks that report nothing themselves decides: it is not to be late.
            self._rounds.again_in(STILL_S)

    async def _take_stacks(
        self, wanted: list[Tracked], living: list[Tracked], sockets: dict[str, str]
    ) -> None:
        arguments = self.from_outside
        taken = await asyncio.gather(
            *(
                self._stacks.take(tracked, sockets.get(tracked.key, ""), arguments=arguments)
                for tracked in wanted
            )
        )
        await self._stacks.take_of_workers(taken, living)
        await self._stacks.take_of_busy(taken, living, sockets)

    async def _see_connections(self, tracked: Tracked) -> None:
        try:
            # Within one host, too: what ranks report themselves tells more where they report.
            whole = self.from_outside and tracked.role == "rank"
            look = partial(examine_connections, tracked.key, tracked.pid, whole=whole)
            seen = await in_background(look)
        except asyncio.TimeoutError:
            return
        process = self._state.processes.get(tracked.key)
        if seen is None or tracked.ended or process is None:
            return
        if process.outside.connections != seen:
            self._recording.record(seen)

    async def _see_locks(self) -> None:
        host = self._recording.header.host
        for path in sorted(locks_of_interest(self._state).get(host, ()))[:_LOCKS]:
            try:
                looked = await in_background(look_at_lock, host, path)
            except asyncio.TimeoutError:
                looked = ev.LockLooked(
                    host=host, path=path, not_observed="its file system does not answer"
                )
            self._recording.record(looked)

    async def _see_saves(self, looked_at: list[Tracked]) -> None:
        """How far the files of a save are, after the stacks that show the save."""
        awaited = saving(self._state)
        for tracked in looked_at:
            if tracked.key not in awaited or tracked.ended:
                continue
            files = written_files(tracked.pid, awaited[tracked.key])
            try:
                if tracked.key not in self._silent_storage:
                    files = await in_background(_with_free_space, tracked.pid, files)
            except asyncio.TimeoutError:
                # Storage that hangs answers no such question: each more would leave a thread behind.
                self._silent_storage.add(tracked.key)
            seen = self._state.processes[tracked.key].outside.written
            known = {one.path: one for one in seen.files} if seen is not None else {}
            told = tuple(_since(known.get(one.path), one) for one in files)
            self._recording.record(ev.FilesWritten(process=tracked.key, files=told))

    async def _read_sources(self, looked_at: list[Tracked]) -> None:
        pids = {tracked.key: tracked.pid for tracked in looked_at if not tracked.ended}
        if not pids:
            return
        lines: list[ev.SourceLine] = []
        for key, places in lines_of_interest(self._state).items():
            if key in pids:
                try:
                    lines += await in_background(read_lines, pids[key], places)
                except asyncio.TimeoutError:
                    return  # the file system hangs: the verdict must do without source lines
        if lines:
            host = self._recording.header.host
            self._recording.record(ev.SourcesRead(host=host, lines=tuple(dict.fromkeys(lines))))

    async def _read_files(self) -> None:
        host = self._recording.header.host
        await self._sources.read(host, wanted_files(self._state, host))

    async def _ask_for_dump(self, key: str, path: str, why: str) -> None:
        """Asks an agent for its flight recorder's entries; records why where it does not answer."""
        if not os.path.exists(path):
            return
        try:
            answer = await asyncio.wait_for(
                ask(path, f"dump {' '.join(why.split())[:400]}\n"), ASK_WITHIN_S
            )
            problem = "" if answer.startswith("ok") else answer.strip()[:200]
        except (OSError, ValueError, asyncio.TimeoutError):
            problem = f"its agent did not answer within {ASK_WITHIN_S:.0f} s"
        if problem:
            self._recording.miss("flight recorder", problem, key)


def _with_free_space(pid: int, files: list[ev.WrittenFile]) -> list[ev.WrittenFile]:
    return [with_free_space(pid, one) for one in files]


def _since(before: ev.WrittenFile | None, now: ev.WrittenFile) -> ev.WrittenFile:
    """With the time since when it has not got further."""
    same = before is not None and before.written_bytes == now.written_bytes
    since_ns = before.unchanged_since_ns if before is not None and same else time.monotonic_ns()
    return msgspec.structs.replace(now, unchanged_since_ns=since_ns)
