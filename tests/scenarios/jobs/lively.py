"""Two minutes of a job's life in some seconds: it steps, and meanwhile something happens to it.

Usage: lively.py TROUBLE. `restarts` raises in the first launch, on both ranks; `forks` starts and kills children;
`clock` sets this process's wall clock by a day, forth and back, as a double of the machine's.
"""

import distwatch.auto  # noqa: F401, I001
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from steps import RANK, WORK, step

TROUBLE = sys.argv[1]
STEPS = 60
DAY_NS = 86_400 * 10**9
real_time_ns = time.time_ns
offset_ns = 0


def set_clock(number: int) -> None:
    global offset_ns
    offset_ns = (-1) ** number * DAY_NS
    time.time_ns = lambda: real_time_ns() + offset_ns
    time.time = lambda: time.time_ns() / 1e9


def fork(number: int) -> None:
    child = os.fork()
    if child == 0:
        if number % 2:
            signal.pause()
        os._exit(0)
    if number % 2:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def fail_once(number: int) -> None:
    first = os.path.join(WORK, f"first-{RANK}")
    if number == STEPS // 2 and not os.path.exists(first):
        open(first, "w").close()
        raise RuntimeError("the first launch fails")


HAPPENS = {"clock": set_clock, "forks": fork, "restarts": fail_once}

dist.init_process_group("gloo")
step("begun")
for number in range(STEPS):
    dist.all_reduce(torch.ones(256))
    if happens := HAPPENS.get(TROUBLE):
        happens(number)
    time.sleep(0.05)
step("done")
dist.destroy_process_group()
