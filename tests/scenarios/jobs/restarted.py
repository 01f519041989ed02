"""A job that hangs in its first attempt only, and goes on to its end when its launcher starts it again."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from steps import step

import distwatch

STEPS = 8


def wait_in_python() -> None:
    time.sleep(10_000)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def main() -> None:
    dist.init_process_group("gloo")
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    gradient = torch.ones(1)
    for number in range(STEPS):
        distwatch.step(number)
        if attempt == 0 and number == 4 and dist.get_rank() == 1:
            {"sleep": wait_in_python, "stop": stop_itself}[sys.argv[1]]()
        dist.all_reduce(gradient)
    step(f"trained in attempt {attempt}")
    dist.destroy_process_group()


main()
