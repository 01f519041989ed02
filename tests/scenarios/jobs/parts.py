"""Ranks whose code takes two ways; which of them is the first argument."""

import sys

import torch
import torch.distributed as dist
from steps import RANK, step

import distwatch
import distwatch.auto


def save_checkpoint(model):
    if dist.get_rank() == 0:  # < save
        dist.all_reduce(torch.ones(3))


def read_batch(number):
    if RANK == 1 and number == 2:
        raise ValueError("a damaged sample")
    return torch.ones(2, 4)


def train(case):
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(4):
        try:
            batch = read_batch(number if case == "damaged" else 0)
            model(batch).sum().backward()
        except ValueError:  # < damaged
            continue
        optimizer.step()
        if case == "told":
            distwatch.step(1200 + number)
    if case in ("save", "told"):
        save_checkpoint(model)
    step("barrier" if RANK else "last")
    dist.barrier()


dist.init_process_group("gloo")
train(sys.argv[1])
