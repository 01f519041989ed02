"""What the looks at a late rank cost: some stacks of it, one after the other, every few seconds.

First a real job in which rank 0 computes beyond its deadline: the CPU of its observer and of the py-spy that it
starts, as shares of a core. Then a process that only counts, looked at in the same rhythm: for how long it is
stopped (`attach_pause.py` says how that is measured). Shares of CPU time hardly depend on what else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time

import psutil

from benchmarks.attach_pause import measure
from distwatch.observer.looks.inspection import AGAIN_S
from distwatch.observer.looks.stack_looks import BUSY_AGAIN
from distwatch.probes.stacks import take_stack
from tests.support.ranks import launch_ranks

DEADLINE_S = 8.0


def observe(seconds: float) -> tuple[float, float]:
    """CPU seconds of the observer, and of what it started, while rank 0 is late."""
    env = {"DISTWATCH_DEADLINES": f"init=60,group=60,load=60,collective={DEADLINE_S:.0f}"}
    with launch_ranks("works_alone", 2, env=env, args=("hash",)) as job:
        job.wait_step("waiting", {1})
        time.sleep(DEADLINE_S + 2)
        observer = psutil.Process(job.observer_pid() or 0)
        first = observer.cpu_times()
        time.sleep(seconds)
        last = observer.cpu_times()
        job.open_gate("enough", 0)
    return (
        last.user + last.system - first.user - first.system,
        last.children_user + last.children_system - first.children_user - first.children_system,
    )


async def look(pid: int, rounds: int) -> None:
    for _ in range(rounds):
        for _ in range(BUSY_AGAIN):
            await take_stack("k", pid)
        await asyncio.sleep(AGAIN_S)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    each_ms = 1000 * (used.ru_utime + used.ru_stime) / (rounds * BUSY_AGAIN)
    print(f"py-spy's CPU for one stack: {each_ms:.1f} ms", file=sys.stderr)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--look", type=int, help=argparse.SUPPRESS)
    options.add_argument("--seconds", type=float, default=20.0)
    chosen = options.parse_args()
    if chosen.look:
        asyncio.run(look(chosen.look, 4))
        return
    own_s, started_s = observe(chosen.seconds)
    print(f"{BUSY_AGAIN} stacks every {AGAIN_S:g} s, for {chosen.seconds:g} s beyond the deadline:")
    print(
        f"observer {own_s / chosen.seconds:.1%} of a core, py-spy {started_s / chosen.seconds:.1%}"
    )
    looks = [sys.executable, "-m", "benchmarks.late_stacks", "--look"]
    print("| meanwhile | longest stop | stopped in all |\n|---|---:|---:|")
    for name, during in (("nothing", []), ("such looks", looks)):
        longest, whole, _ = measure(chosen.seconds, during)[0]
        print(f"| {name} | {longest / 1e6:.1f} ms | {whole / 1e6:.1f} ms |")


if __name__ == "__main__":
    main()
