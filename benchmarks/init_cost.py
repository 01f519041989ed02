"""What `distwatch.initialize` costs on a healthy gloo job, against bare `init_process_group`.

All ranks start together behind a pipe, imports done; a run costs what its slowest rank took.
Goal: under 50 ms more than bare torch.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile

RANKS = 4
ROUNDS = 7
WAYS = {
    "bare torch": {"WAY": "bare", "DISTWATCH": "0"},
    "bare torch and its first all_reduce": {"WAY": "reduce", "DISTWATCH": "0"},
    "initialize, DISTWATCH=0": {"WAY": "initialize", "DISTWATCH": "0"},
    "initialize, with journal": {
        "WAY": "initialize",
        "DISTWATCH": "1",
        "DISTWATCH_OBSERVER": "off",
    },
}
RANK = """
import os, sys, time, torch, torch.distributed as dist
way = os.environ["WAY"]
if way == "initialize":
    import distwatch
    distwatch.initialize
os.write(int(sys.argv[1]), b".")
os.read(int(sys.argv[2]), 1)
began = time.perf_counter()
if way == "initialize":
    distwatch.initialize("gloo")
else:
    dist.init_process_group("gloo")
if way == "reduce":
    dist.all_reduce(torch.ones(1))
print(1e3 * (time.perf_counter() - began), flush=True)
dist.destroy_process_group()
"""


def run(way: dict[str, str], root: str, number: int) -> float:
    """Milliseconds of the slowest rank of one job."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ready, tell_ready = os.pipe()
    wait, tell_go = os.pipe()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tell_ready), str(wait)],
            pass_fds=(tell_ready, wait),
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **way,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(RANKS),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "DISTWATCH_DIR": root,
                "DISTWATCH_RUN_ID": f"run{number}",
            },
        )
        for rank in range(RANKS)
    ]
    for _ in ranks:
        os.read(ready, 1)
    os.write(tell_go, b"." * RANKS)
    slowest = max(float(rank.communicate()[0]) for rank in ranks)
    for descriptor in (ready, tell_ready, wait, tell_go):
        os.close(descriptor)
    return slowest


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        for number in range(ROUNDS):
            for name, way in WAYS.items():
                taken[name].append(run(way, root, number))
    base = statistics.median(taken["bare torch"])
    print(f"| {RANKS} gloo ranks, median of {ROUNDS} runs | ms | more than bare |\n|---|---:|---:|")
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.1f} | {median - base:+.1f} |")


if __name__ == "__main__":
    main()
