"""Looks at the rendezvous of launchers that have not started a worker yet: which nodes are missing?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from distwatch.observer.background import end_tasks, in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.tracking import Tracked
from distwatch.probes.elastic_rendezvous import Rendezvous, look_at_rendezvous, rendezvous_of
from distwatch.probes.procfs import argv_of
from distwatch.probes.table import read_environ
from distwatch.settings import read_settings
from distwatch.state import events as ev
from distwatch.state.steps import INIT

PAUSES_S = (2.0, 2.0, 2.0, 10.0, 30.0)
"""Nodes of a large job come minutes apart."""
LOOK_WITHIN_S = 8.0


class RendezvousLooks:
    """One look at a time at each launcher."""

    def __init__(self, recording: Recording, on_news: Callable[[], None] = lambda: None) -> None:
        """`on_news` is called when a look finds something new."""
        self._recording = recording
        self._on_news = on_news
        self._meant: dict[str, Rendezvous | None] = {}
        self._limits: dict[str, float | None] = {}
        self._due: dict[str, float] = {}
        self._rounds: dict[str, int] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._waits: dict[str, tuple[int | None, int]] = {}
        """By launcher, how many nodes have joined, and since when no more."""

    def consider(self, living: list[Tracked]) -> None:
        """Starts the looks that are due. Never waits for one."""
        started = {tracked.ppid for tracked in living if tracked.role in ("rank", "agent")}
        now = time.monotonic()
        for tracked in living:
            if tracked.role != "launcher" or tracked.pid in started:
                continue
            if tracked.key not in self._meant:
                environ = read_environ(tracked.pid) or {}
                self._meant[tracked.key] = rendezvous_of(argv_of(tracked.pid), environ)
                self._limits[tracked.key] = _limit_s(environ)
            meant = self._meant[tracked.key]
            if meant is None or now < self._due.get(tracked.key, 0.0):
                continue
            self._due[tracked.key] = now + LOOK_WITHIN_S
            self._looking[tracked.key] = asyncio.create_task(self._look(tracked.key, meant))

    async def close(self) -> None:
        """Cancels all looks; nothing of them is recorded."""
        await end_tasks(*self._looking.values())

    async def _look(self, key: str, meant: Rendezvous) -> None:
        host = self._recording.header.host
        try:
            seen = await in_background(look_at_rendezvous, key, host, meant, within_s=LOOK_WITHIN_S)
        except asyncio.TimeoutError:
            seen = ev.RendezvousLooked(
                process=key,
                host=host,
                endpoint=meant.endpoint,
                backend=meant.backend,
                nodes_needed=meant.least,
                detail=f"the store at {meant.endpoint} did not answer within {LOOK_WITHIN_S:g} s",
            )
        rounds = self._rounds[key] = self._rounds.get(key, -1) + 1
        self._due[key] = time.monotonic() + PAUSES_S[min(rounds, len(PAUSES_S) - 1)]
        known = self._waits.get(key)
        if known is None or known[0] != seen.nodes_joined:
            known = self._waits[key] = (seen.nodes_joined, time.monotonic_ns())
        seen = msgspec.structs.replace(seen, waits_since_ns=known[1], limit_s=self._limits[key])
        self._recording.record(seen)
        self._on_news()


def _limit_s(environ: Mapping[str, str]) -> float | None:
    settings = read_settings(environ)
    return settings.deadlines[INIT.name] if settings.enabled else None
