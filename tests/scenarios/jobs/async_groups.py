"""Four ranks with asynchronous work on three groups at once: TP (0,1) (2,3), DP (0,2) (1,3), and all.

Usage: async_groups.py FAULT, at rank 2 in its third step: none, skip, stop or dead.
"""

import distwatch.auto  # noqa: F401, I001
import os
import signal
import sys

import torch
import torch.distributed as dist
from steps import RANK, gate, silent_pipe, step

FAULT = sys.argv[1] if RANK == 2 else "none"


def read_next_shard() -> None:
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)


def train_step(number: int) -> None:
    """What overlaps in a real step: gradients are reduced along DP while TP goes on."""
    works = []
    for layer in range(2):
        works.append(dist.all_reduce(torch.ones(8), group=tensor, async_op=True))
        if number == 2 and layer == 1:
            if FAULT == "stop":
                step("stalled")
                read_next_shard()
            if FAULT == "dead":
                step("stalled")
                os.kill(os.getpid(), signal.SIGKILL)
            if FAULT == "skip":
                step("stalled")
                continue
        works.append(dist.all_reduce(torch.ones(16), group=data, async_op=True))
    for work in works:
        work.wait()
    dist.all_reduce(torch.ones(1))


dist.init_process_group("gloo")
tensor = [dist.new_group(ranks, group_desc="TP") for ranks in ([0, 1], [2, 3])][RANK // 2]
data = [dist.new_group(ranks, group_desc="DP") for ranks in ([0, 2], [1, 3])][RANK % 2]
for number in range(4):
    step(f"step {number}")
    train_step(number)
pipe = gate("end")
pipe.read(1)
dist.destroy_process_group()
