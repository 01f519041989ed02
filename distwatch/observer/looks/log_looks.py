"""Reads the job's own logs, once for each attach: what its ranks wrote last, and how missing ones ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

import msgspec

from distwatch.dumps.log.facts import Fact, Raised, Who, Wrote
from distwatch.dumps.log.job_log import LogFile, read_log
from distwatch.observer.background import end_tasks, in_background
from distwatch.observer.journals.recording import Recording
from distwatch.probes.output_files import OutputFile, output_files, read_tail
from distwatch.state import events as ev
from distwatch.state.addresses import is_loopback
from distwatch.state.frames import process_key
from distwatch.state.model import Process, RunState

READ_WITHIN_S = 5.0
_FILES_AT_MOST = 64


class LogLooks:
    """One look; a file system that hangs delays nobody."""

    def __init__(self, recording: Recording, on_news: Callable[[], None] = lambda: None) -> None:
        """`on_news` is called when something was read."""
        self._recording = recording
        self._on_news = on_news
        self._host = recording.header.host
        self._reading: asyncio.Task[None] | None = None

    def consider(self, state: RunState) -> None:
        """Starts the look once a rank of this host is known. Never waits for it."""
        ranks = {
            process.global_rank: process
            for process in state.processes.values()
            if process.role == "rank" and process.host == self._host and process.global_rank is not None
        }  # fmt: skip
        if self._reading is None and ranks:
            self._reading = asyncio.create_task(self._read(ranks))

    async def close(self) -> None:
        """Cancels the look; nothing of it is recorded."""
        if self._reading is not None:
            await end_tasks(self._reading)

    async def _read(self, ranks: dict[int, Process]) -> None:
        pids = {rank: process.pid for rank, process in ranks.items()}
        sizes = [process.world_size for process in ranks.values() if process.world_size]
        # Only where all ranks are of this host is a rank that no process is one that has ended.
        local = any(
            one.identity.single_node or is_loopback(one.identity.master_addr or "")
            for one in ranks.values()
        )
        world = max(sizes, default=0) if local else 0
        try:
            facts = await in_background(_read_facts, pids, world, within_s=READ_WITHIN_S)
        except asyncio.TimeoutError:
            self._recording.miss("job's logs", "their file system does not answer", once=True)
            return
        told = _Told(ranks, world, self._host)
        for file, found in facts:
            for event in told.events_of(file, found):
                self._recording.record(event)
        self._on_news()


def _read_facts(ranks: dict[int, int], world: int) -> list[tuple[OutputFile, list[Fact]]]:
    found: list[tuple[OutputFile, list[Fact]]] = []
    for file in output_files(ranks, world)[:_FILES_AT_MOST]:
        try:
            content = read_tail(file.path)
        except OSError:
            continue
        who = Who(global_rank=file.rank)
        log = LogFile(name=file.path, content=content, scope=os.path.dirname(file.path), who=who)
        found.append((file, read_log(log)))
    return found


class _Told:
    """Facts as events: the last line of each rank, and of those without a process how they ended."""

    def __init__(self, ranks: dict[int, Process], world: int, host: str) -> None:
        self._ranks = ranks
        self._world = world
        self._host = host
        self._keys = {rank: process.key for rank, process in ranks.items()}

    def events_of(self, file: OutputFile, facts: list[Fact]) -> Iterator[ev.Event]:
        """The events of one log; of a rank that lives, no exception counts: it may be long over."""
        if file.rank is not None:
            yield from self._known(file.rank, file.path)
        for fact in facts:
            rank = fact.who.global_rank
            if rank is None or (rank not in self._keys and rank >= self._world):
                continue
            if isinstance(fact, Raised) and rank not in self._ranks:
                yield from self._known(rank, file.path)
                yield ev.ErrorFileRead(
                    process=self._keys[rank],
                    type_name=fact.type_name,
                    message=fact.message,
                    traceback=fact.traceback,
                )
            elif isinstance(fact, Wrote) and rank in self._keys:
                yield ev.OutputSeen(process=self._keys[rank], text=fact.text)

    def _known(self, rank: int, path: str) -> Iterator[ev.Event]:
        """A rank of the same job that has no process any more, once."""
        if rank in self._keys:
            return
        other = next(iter(self._ranks.values()))
        key = self._keys[rank] = process_key(self._host, 0, rank)
        yield ev.ProcessSighted(
            process=key,
            host=self._host,
            pid=0,
            start_ticks=rank,
            ppid=other.ppid,
            role="rank",
            identity=msgspec.structs.replace(other.identity, global_rank=rank, local_rank=None),
        )
        yield ev.ExitSeen(process=key, how=f"only its log is left: {path}")
