"""Brings the agent into the ranks of a job that runs without distwatch, because a person asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Collection

from distwatch.injection.refusal import Refused, require_free_gil
from distwatch.injection.request import bring_in
from distwatch.observer.daemon import Observer
from distwatch.observer.looks.stack_looks import ASK_WITHIN_S, ask
from distwatch.observer.looks.tracking import Tracked
from distwatch.probes.stacks import take_stack

AT_ONCE = 2
LOOK_AGAIN_S = 0.3
LEFT_WITHIN_S = 4.0


async def inject(observer: Observer, *, for_good: bool) -> list[str]:
    """Brings the agent into every rank that has none; returns why it could not, a sentence for each.

    Each reason is recorded, too: what the agent would have seen of that rank is not observed.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(tracked: Tracked) -> str:
        async with gate:
            try:
                await _into(observer, tracked, for_good)
            except (Refused, OSError) as why:
                observer.recording.miss("agent", str(why), tracked.key)
                return str(why)
        return ""

    ranks = [tracked for tracked in observer.tracking.living() if tracked.role == "rank"]
    known = observer.state.processes
    bare = [t for t in ranks if t.key not in known or not known[t.key].instrumented]
    return [why for why in await asyncio.gather(*map(one, bare)) if why]


async def _into(observer: Observer, tracked: Tracked, for_good: bool) -> None:
    first = await take_stack(tracked.key, tracked.pid)
    await asyncio.sleep(LOOK_AGAIN_S)
    second = await take_stack(tracked.key, tracked.pid)
    require_free_gil(tracked.pid, first.threads, second.threads)
    # In a thread that Python waits for at its end: a tracer that goes leaves a thread of the rank asleep.
    await asyncio.to_thread(_bring_in, observer, tracked, for_good)


def _bring_in(observer: Observer, tracked: Tracked, for_good: bool) -> None:
    bring_in(tracked.pid, observer.folder, tracked.role, for_good=for_good)


async def take_out(sockets: Collection[str]) -> None:
    """Asks agents that were brought in for a while to leave, and waits until they have."""
    leaving = []
    for path in sockets:
        with contextlib.suppress(OSError, ValueError, asyncio.TimeoutError):
            if (await asyncio.wait_for(ask(path, "leave\n"), ASK_WITHIN_S)).startswith("ok"):
                leaving.append(path)
    until = time.monotonic() + LEFT_WITHIN_S
    while any(map(os.path.exists, leaving)) and time.monotonic() < until:
        await asyncio.sleep(0.05)
