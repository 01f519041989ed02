"""The closer look: stacks of all ranks, the thorough process table, the recorders' entries."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from distwatch.observer.recording import Recording
from distwatch.observer.tracking import Tracked, Tracking
from distwatch.probes.stacks import take_stack
from distwatch.state import events as ev

AT_ONCE = 2
ASK_WITHIN_S = 1.0
PAUSES_S = (3.0, 10.0, 30.0, 60.0)
STEADY_S = 5.0
QUIET_AFTER_S = 60.0


class Inspection:
    """Looks on suspicion, and then ever more rarely: a long hang must not cost much."""

    def __init__(self, recording: Recording, tracking: Tracking) -> None:
        self._recording = recording
        self._tracking = tracking
        self._frames: dict[str, tuple[object, int]] = {}
        self._rounds = 0
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None
        self._ask = True
        self._suspected = 0.0

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def consider(
        self, why: str, *, sockets: dict[str, str], steady: bool = False
    ) -> asyncio.Task[None] | None:
        """Begins a round where one is due for that reason ('' : nothing is suspicious); returns it.

        Args:
            steady: somebody looks at ranks that say nothing themselves: do not become rarer.
        """
        now = time.monotonic()
        if not why:
            # A step that is slow again and again is no new suspicion each time.
            if now - self._suspected > QUIET_AFTER_S:
                self._rounds, self._next = 0, 0.0
                self._ask = True
            return None
        self._suspected = now
        if self.running or now < self._next:
            return None
        look = self.begin(why, sockets)
        if steady:
            self._next = now + STEADY_S
        return look

    def begin(self, why: str, sockets: dict[str, str], *, ask: bool = False) -> asyncio.Task[None]:
        """Begins a round now; the one under way where there is one. `ask`: for dumps, too."""
        self._ask = self._ask or ask
        if self._task is None or self._task.done():
            pause = PAUSES_S[min(self._rounds, len(PAUSES_S) - 1)]
            self._rounds += 1
            self._next = time.monotonic() + pause
            self._task = asyncio.create_task(self._look(why, sockets))
        return self._task

    def again_soon(self) -> None:
        """The verdict changed: the next round need not wait."""
        self._rounds, self._next = min(self._rounds, 1), 0.0
        self._ask = True

    async def _look(self, why: str, sockets: dict[str, str]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        # A dump of the recorder holds the GIL of its rank for tens of milliseconds.
        asked, self._ask = (sockets if self._ask else {}), False
        wanted = [t for t in self._tracking.living() if t.role in ("rank", "agent", "other")]
        await asyncio.gather(
            *(self._take_stack(tracked, gate) for tracked in wanted),
            *(self._ask_for_dump(key, path, why) for key, path in asked.items()),
            self._tracking.examine(),
        )

    async def _take_stack(self, tracked: Tracked, gate: asyncio.Semaphore) -> None:
        async with gate:
            taken = await take_stack(tracked.key, tracked.pid)
        if tracked.ended:
            return
        since = self._unchanged_since(tracked.key, taken)
        self._recording.record(
            ev.StackTaken(
                process=taken.process,
                threads=taken.threads,
                source=taken.source,
                error=taken.error,
                unchanged_since_ns=since,
            )
        )

    def _unchanged_since(self, key: str, taken: ev.StackTaken) -> int | None:
        if not taken.threads:
            return None
        main = next(
            (t.frames for t in taken.threads if t.name == "MainThread"), taken.threads[0].frames
        )
        frames, since = self._frames.get(key, (None, 0))
        if frames != main:
            since = time.monotonic_ns()
            self._frames[key] = (main, since)
        return since

    async def _ask_for_dump(self, key: str, path: str, why: str) -> None:
        """Asks an agent for its recorder's entries; a frozen one does not answer, and that is said."""
        if not os.path.exists(path):
            return
        try:
            answer = await asyncio.wait_for(
                _ask(path, f"dump {' '.join(why.split())[:400]}\n"), ASK_WITHIN_S
            )
            problem = "" if answer.startswith("ok") else answer.strip()[:200]
        except (OSError, ValueError, asyncio.TimeoutError):
            problem = f"its agent did not answer within {ASK_WITHIN_S:.0f} s"
        if problem:
            host = self._recording.header.host
            self._recording.record(
                ev.NotObserved(host=host, what="flight recorder", why=problem, process=key)
            )


async def _ask(path: str, line: str) -> str:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(line.encode())
        await writer.drain()
        return (await reader.readline()).decode("utf-8", "replace")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
