"""The source files in which ranks may part, read while they are still what the ranks loaded."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

from distwatch.diagnosis.verdict.probe_requests import WantedFile, files_of_interest
from distwatch.observer.background import WITHIN_S, in_background
from distwatch.probes.sources import read_file
from distwatch.state.events import SourceFileRead
from distwatch.state.model import RunState

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def wanted_files(state: RunState, host: str) -> list[WantedFile]:
    """The files that are not read yet; at most a few at once."""
    return files_of_interest(state, host, TICK_S)


def read_wanted(host: str, wanted: WantedFile) -> SourceFileRead:
    """One of them. It blocks where a file system hangs."""
    process = wanted.process
    pid = process.pid if process.ended_ns is None else 0
    return read_file(host, wanted.file, pid, wanted.started_s, wanted.functions)


class SourceReader:
    """Reads files one after the other. A text that comes late, as on a busy machine, is recorded when it comes."""

    def __init__(
        self,
        record: Callable[[SourceFileRead], None],
        read: Callable[[str, WantedFile], SourceFileRead] = read_wanted,
        within_s: float = WITHIN_S,
    ) -> None:
        self._record = record
        self._read = read
        self._within_s = within_s
        self.late: set[asyncio.Task[SourceFileRead]] = set()

    async def read(self, host: str, files: list[WantedFile]) -> None:
        """Each of them; at the latest after a while one that is not there yet counts as not read."""
        for wanted in files:
            reading = asyncio.create_task(in_background(self._read, host, wanted, within_s=None))
            done, _ = await asyncio.wait({reading}, timeout=self._within_s)
            if done:
                self._record(reading.result())
                continue
            why = "its file system does not answer"
            self._record(SourceFileRead(host=host, file=wanted.file, not_read=why))
            self.late.add(reading)
            reading.add_done_callback(self._come_late)

    def close(self) -> None:
        """Nothing that comes later is recorded."""
        for reading in self.late:
            reading.cancel()

    def _come_late(self, reading: asyncio.Task[SourceFileRead]) -> None:
        self.late.discard(reading)
        if not reading.cancelled():
            self._record(reading.result())


def read_all(state: RunState, host: str) -> list[SourceFileRead]:
    """All of them, for a report on a run that no observer has read them for; none if that takes too long.

    A rank may ask for a report, and must not wait for a file system that hangs.
    """
    read: list[SourceFileRead] = []
    wanted = wanted_files(state, host)
    thread = threading.Thread(
        target=lambda: read.extend([read_wanted(host, one) for one in wanted]), daemon=True
    )
    if wanted:
        thread.start()
        thread.join(WITHIN_S)
    return list(read)
