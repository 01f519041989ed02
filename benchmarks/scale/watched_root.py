"""The product's own observer process, with a sink and a clock of ours in it that measure.

python -m scale.watched_root RUN_FOLDER MEASURES_FILE
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections import Counter

import msgspec
import psutil

from distwatch.observer import __main__ as daemon
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import Entry
from distwatch.state import events as ev

LINE_EVERY_S = 0.5
BEAT_S = 0.02
BUCKET_NS = 10_000_000


class Line(msgspec.Struct, kw_only=True):
    """What was measured since the line before. Times are CLOCK_MONOTONIC ns."""

    now_ns: int
    ranks: int = 0
    events: int = 0
    lags: dict[int, int] = {}
    """Pulses by their age in the state, in hundredths of a second."""
    worst_rank_s: float = 0.0
    """The age of the oldest pulse of any rank."""
    stall_s: float = 0.0
    """For how long the loop did nothing else at most."""
    tick_s: float = 0.0
    ticks: int = 0
    cpu_s: float = 0.0
    rss: int = 0
    peak: int = 0
    stacks: int = 0
    stacks_ns: int = 0
    """When the newest of the stacks so far was folded."""
    verdicts: list[tuple[int, str, tuple[int, ...], str, bool]] = []
    """When, code, culprits and incident folder of each verdict of this observer."""
    unlinked: list[str] = []
    """Links that were lost, and why."""


class WatchedObserver(Observer):
    """Measures what it folds; everything else is the product's."""

    target = ""

    def __init__(self, folder, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(folder, **options)
        self._line = Line(now_ns=0)
        self._lags: Counter[int] = Counter()
        self._looked: dict[str, int] = {}
        self._usage = psutil.Process()
        self.sinks.append(self._measure)

    def tick(self, *, judging: bool = True) -> None:
        began = time.monotonic()
        super().tick(judging=judging)
        self._line.tick_s = max(self._line.tick_s, time.monotonic() - began)
        self._line.ticks += 1

    async def run(self) -> str:
        tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._beat())]
        try:
            return await super().run()
        finally:
            for task in tasks:
                task.cancel()

    def _measure(self, entry: Entry) -> None:
        self._line.events += 1
        event = entry.event
        kind = type(event)
        if kind is ev.PulseRead:
            self._lags[(time.monotonic_ns() - entry.time_ns) // BUCKET_NS] += 1
        elif kind is ev.StackTaken and event.process not in self._looked:
            self._looked[event.process] = time.monotonic_ns()
        elif kind is ev.FindingsJudged and not event.of_one_host:
            first = event.findings[0] if event.findings else None
            path = f"{self.judge.path}/report.json" if event.incident else ""
            told = (first.code, first.culprit_ranks) if first else ("", ())
            kept = bool(path) and os.path.exists(path)
            self._line.verdicts.append((time.monotonic_ns(), *told, path, kept))
        elif kind is ev.LinkChanged and not event.linked and not event.ended:
            self._line.unlinked.append(f"{event.peer}: {event.why}")

    async def _beat(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(BEAT_S)
            late = time.monotonic() - began - BEAT_S
            self._line.stall_s = max(self._line.stall_s, late)

    async def _write(self) -> None:
        with open(self.target, "ab", buffering=0) as file:
            while True:
                await asyncio.sleep(LINE_EVERY_S)
                file.write(msgspec.json.encode(self._finished_line()) + b"\n")

    def _finished_line(self) -> Line:
        line, self._line = self._line, Line(now_ns=0)
        lags, self._lags = self._lags, Counter()
        line.now_ns, line.lags = time.monotonic_ns(), dict(lags)
        beats = [
            process.outside.pulse.beat_ns
            for process in self.state.processes.values()
            if process.outside.pulse is not None
        ]
        line.worst_rank_s = (line.now_ns - min(beats)) / 1e9 if beats else 0.0
        line.ranks = sum(p.initialized for p in self.state.processes.values())
        line.stacks = len(self._looked)
        line.stacks_ns = max(self._looked.values(), default=0)
        usage = self._usage.cpu_times()
        line.cpu_s = usage.user + usage.system
        line.rss = self._usage.memory_info().rss
        line.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return line


if __name__ == "__main__":
    WatchedObserver.target = sys.argv[2]
    daemon.Observer = WatchedObserver  # type: ignore[misc]
    sys.exit(daemon.main([sys.argv[1]]))
