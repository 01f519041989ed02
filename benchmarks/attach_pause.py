"""What `distwatch attach` costs the ranks: for how long each of them is stopped.

Two processes with the variables of ranks count as fast as they can, and ask the kernel whenever they were held up:
what of a gap was neither running nor waiting for a core is a stop. So a busy machine changes little: the account
itself lags by some milliseconds, which is what the rows of "nothing" show. `py-spy --native`, which
`distwatch stacks --native` uses and attach does not, is there to compare.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time

from tests.support.ranks import free_port

GAP_NS = 500_000
WARM_S = 3.0


def stopped_ns(at_ns: int) -> int:
    """By now, how long this thread has neither run nor waited for a core, from an arbitrary beginning."""
    with open("/proc/thread-self/schedstat", encoding="ascii") as file:
        ran, waited, _ = map(int, file.read().split())
    return at_ns - ran - waited


def count(seconds: float) -> None:
    """A rank: prints the longest and the whole time for which it was stopped, in ns, and how far it counted."""
    longest = counted = 0
    begun = last = time.monotonic_ns()
    first = before = stopped_ns(begun)
    while last - begun < seconds * 1e9:
        now = time.monotonic_ns()
        counted += 1
        if now - last > GAP_NS:
            # The account of a running thread is brought up to date at each tick of the scheduler.
            here = stopped_ns(time.monotonic_ns())
            longest, before = max(longest, here - before), here
        last = now
    print(json.dumps([longest, stopped_ns(time.monotonic_ns()) - first, counted]))


def measure(seconds: float, during: list[str]) -> list[list[int]]:
    """Two such ranks while that command runs; what each printed."""
    port = str(free_port())
    ranks = []
    for rank in range(2):
        env = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "-m", "benchmarks.attach_pause", "--count", str(seconds)]
        ranks.append(
            subprocess.Popen(
                command, env={**os.environ, **env, "DISTWATCH": "0"}, stdout=subprocess.PIPE
            )
        )
    time.sleep(WARM_S)
    if during:
        with tempfile.TemporaryDirectory() as root, contextlib.suppress(OSError):
            subprocess.run(
                [*during, str(ranks[0].pid)],
                env={**os.environ, "DISTWATCH_DIR": root},
                capture_output=True,
                check=False,
            )
    return [json.loads(rank.communicate()[0]) for rank in ranks]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=float, help=argparse.SUPPRESS)
    options.add_argument("--seconds", type=float, default=20.0)
    chosen = options.parse_args()
    if chosen.count:
        count(chosen.count)
        return
    attach = [sys.executable, "-m", "distwatch", "attach", "--once"]
    native = ["py-spy", "dump", "--native", "--pid"]
    print("| meanwhile | longest stop | stopped in all | counted |")
    print("|---|---:|---:|---:|")
    for name, during in (("nothing", []), ("attach --once", attach), ("py-spy --native", native)):
        for longest, whole, counted in measure(chosen.seconds, during):
            print(f"| {name} | {longest / 1e6:.1f} ms | {whole / 1e6:.1f} ms | {counted:,} |")


if __name__ == "__main__":
    main()
