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


def pass_on(losses):
    for loss in losses:
        if RANK == 0:
            if loss != loss:  # < unsent
                continue
            dist.send(torch.tensor([loss]), 1)
        else:
            dist.recv(torch.zeros(1), 0)


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
if sys.argv[1] == "pipeline":
    pass_on([1.0, float("nan"), 2.0])
    dist.barrier()
else:
    train(sys.argv[1])
