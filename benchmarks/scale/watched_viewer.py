"""A viewer of the product, as the TUI is one, that writes down how far behind it is.

python -m scale.watched_viewer RUN_FOLDER MEASURES_FILE
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time

import msgspec

from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.run_source import SourceLost
from distwatch.runfolder import RunFolder

POLL_EVERY_S = 0.5


class View(msgspec.Struct, kw_only=True):
    """One refresh of the viewer."""

    now_ns: int
    opened_s: float
    """How long the first picture took."""
    ranks: int
    worst_rank_s: float
    poll_s: float
    culprits: tuple[int, ...]
    peak: int
    cpu_s: float = 0.0
    lost: str = ""


async def watch(path: str, target: str) -> None:
    run = LiveRun(RunFolder(path))
    began = time.monotonic()
    await run.open()
    opened_s = time.monotonic() - began
    with open(target, "ab", buffering=0) as file:
        lost = ""
        while not lost:
            polled = time.monotonic()
            try:
                await run.poll()
            except SourceLost as error:
                lost = str(error)
            now = time.monotonic_ns()
            pulses = [p.outside.pulse for p in run.state.processes.values()]
            beats = [pulse.beat_ns for pulse in pulses if pulse is not None]
            found = run.state.recorded_findings
            view = View(
                now_ns=now,
                opened_s=opened_s,
                ranks=len(beats),
                worst_rank_s=(now - min(beats)) / 1e9 if beats else 0.0,
                poll_s=time.monotonic() - polled,
                culprits=found[0].culprit_ranks if found else (),
                peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                cpu_s=time.process_time(),
                lost=lost,
            )
            file.write(msgspec.json.encode(view) + b"\n")
            await asyncio.sleep(POLL_EVERY_S)
    await run.close()


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], sys.argv[2]))
