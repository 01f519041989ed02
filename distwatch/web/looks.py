"""What a live page shows, again and again: a run through its observer or from disk, and the list of runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import anyio.to_thread

from distwatch.errors import NoSuchTarget
from distwatch.observer.journals.pruning import is_run
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.lock import lock_holder
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.run_source import SourceLost
from distwatch.observer.targets.runs import list_runs
from distwatch.observer.targets.target import RunHere, report_on
from distwatch.report.document import Report
from distwatch.report.html import render_parts
from distwatch.runfolder import RunFolder
from distwatch.visible_text import visible
from distwatch.web.live_page import runs_table

T = TypeVar("T")
PAUSE_S = 0.5
"""The shortest time between two versions: a person cannot read faster."""
READ_EVERY_S = 2.0
"""How often a run without an observer, and the list of runs, are read from disk."""
_REST = 9
"""Seconds of rest for each second of work: one look takes at most a tenth of a core."""
GONE = "this run's folder was removed; this is its last state"
ENDED_SHOWN = 20
"""As `distwatch ps`: the living runs, and the newest ones."""


class Turns:
    """One page is made at a time, in a thread: a report of a large run takes memory."""

    def __init__(self) -> None:
        self._one = anyio.CapacityLimiter(1)

    async def make(self, work: Callable[[], T]) -> T:
        """The result of `work`; if the caller is cancelled, the thread's result is dropped."""
        return await anyio.to_thread.run_sync(work, limiter=self._one, abandon_on_cancel=True)


class Look(Protocol):
    """Something that a page shows."""

    async def next(self) -> dict[str, str]:
        """The page's parts, once there is something new to show.

        Raises:
            NoSuchTarget: it is gone for good.
        """

    async def close(self) -> None:
        """Releases everything."""


class RunLook:
    """A run, while it runs through its observer, which tells of every event; else from disk."""

    def __init__(self, folder: RunFolder, turns: Turns) -> None:
        self.folder = folder
        self.report: Report | None = None
        """The report that the newest parts show."""
        self._turns = turns
        self._source: LiveRun | None = None
        self._read: object = None
        """What the files were like when they were read last."""
        self._rest_s = 0.0

    async def next(self) -> dict[str, str]:
        await asyncio.sleep(self._rest_s)
        while (make := await self._news()) is None:
            if self._source is not None:
                await self._source.wait(READ_EVERY_S)
            else:
                await asyncio.sleep(READ_EVERY_S)
        began = time.monotonic()
        self.report, parts = await self._turns.make(lambda: _with_parts(make()))
        self._rest_s = max(PAUSE_S, _REST * (time.monotonic() - began))
        return parts

    async def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            await source.close()

    async def _news(self) -> Callable[[], Report] | None:
        """What makes the report, where there is anything new."""
        if not is_run(self.folder):
            raise NoSuchTarget(GONE)
        if self._source is None and lock_holder(self.folder) is not None:
            await self._open()
            if self._source is not None:
                return self._of(self._source)
        if self._source is not None:
            try:
                return self._of(self._source) if await self._source.poll() else None
            except SourceLost:
                await self.close()
        now = _files(self.folder)
        if now == self._read and not any_alive(self.folder):
            return None
        self._read = now
        return RunHere(self.folder).report

    async def _open(self) -> None:
        source = LiveRun(self.folder)
        try:
            await source.open()
        except (SourceLost, OSError):
            await source.close()  # it does not answer: the files tell as much
            return
        self._source = source

    def _of(self, source: LiveRun) -> Callable[[], Report]:
        state = source.state  # changes only in `poll`, which waits for the thread
        return lambda: report_on(state)


def _with_parts(report: Report) -> tuple[Report, dict[str, str]]:
    return report, {name: visible(text) for name, text in render_parts(report).items()}


def _files(folder: RunFolder) -> object:
    """What changes when something is written to the run."""
    found = []
    for entry in os.scandir(folder.path):
        told = entry.stat(follow_symlinks=False)
        found.append((entry.name, told.st_size, told.st_mtime_ns))
    return sorted(found)


class RunsLook:
    """The list of runs."""

    def __init__(self, root: str, turns: Turns) -> None:
        self._root = root
        self._turns = turns
        self._shown = ""
        self._rest_s = 0.0

    async def next(self) -> dict[str, str]:
        while True:
            await asyncio.sleep(self._rest_s)
            began = time.monotonic()
            table = await self._turns.make(self._table)
            self._rest_s = max(READ_EVERY_S, _REST * (time.monotonic() - began))
            if table != self._shown:
                self._shown = table
                return {"runs": table}

    async def close(self) -> None:
        """Holds nothing."""

    def _table(self) -> str:
        known = list_runs(self._root)
        runs = [run for place, run in enumerate(known) if run.alive or place < ENDED_SHOWN]
        return runs_table(runs, len(known) - len(runs))
