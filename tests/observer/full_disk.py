"""A run on a disk that is full for a while: `python -m tests.observer.full_disk recovers|stays`.

Prints what a report on the run says afterwards. The disk is /dev/shm, as the tests mount it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from distwatch.observer.daemon import Observer
from distwatch.observer.journals import journal_intake, recording
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.targets.target import report_on
from distwatch.runfolder import RunFolder
from tests.observer.rank_process import RankProcess

FILLER = "/dev/shm/filler"


def fill() -> None:
    filler = os.open(FILLER, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for size in (1 << 20, 4096):
        try:
            while True:
                os.write(filler, bytes(size))
        except OSError:
            continue
    os.close(filler)


async def main(recovers: bool) -> dict[str, object]:
    # Every tick is one that journals, and one that tries the disk again.
    recording.KEEP_EVERY_NS = recording.TRY_AGAIN_NS = 0
    recording.RESERVE = 4096
    journal_intake.TRY_AGAIN_S = 0.0
    folder = RunFolder("/dev/shm/runs/r")
    folder.create()
    rank = RankProcess(folder)
    observer = Observer(folder)
    rank.do("steps 100")
    observer.tick()
    fill()
    for _ in range(40):
        rank.do("steps 100")
        rank.do("beat 7 6")
        observer.tick()
    free = os.statvfs("/dev/shm").f_bavail
    if recovers:
        os.unlink(FILLER)
        observer.tick()
    rank.kill()
    observer.tick()
    rank.close()
    await observer.finish("the test ends")
    state = load_state(folder)
    coverage = report_on(state).coverage
    return {
        "free": free,
        "unobserved": coverage.unobserved,
        "not_observed": coverage.not_observed,
        "newest": state.streams[rank.key],
        "rings": folder.stems(".ring"),
        "exit": state.processes[rank.key].outside.exit is not None,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1] == "recovers"))))
