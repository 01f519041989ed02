"""Ranks that the library aborts for what they received. Usage: library_aborts.py WAY RANK"""

import distwatch.auto  # noqa: F401, I001
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from steps import RANK, gate, silent_pipe, step
from torch import nn

WAY, WHO = sys.argv[1], int(sys.argv[2])
ODD = RANK == WHO


def skip_bad_batch() -> None:
    """A rank alone leaves out a step: later its calls are of other sizes."""
    for number in range(4):
        if not (ODD and number == 1):  # < skipped: rank
            dist.all_reduce(torch.ones(4 + number))


def split_unevenly() -> None:
    """Rank 0 gives three elements to rank 1, which takes two."""
    sent = torch.ones(6)
    given = [2, 4] if ODD else [3, 3]  # < splits: rank
    taken = [2, 4] if ODD else [3, 2]  # < splits: rank
    dist.all_to_all_single(torch.empty(sum(taken)), sent, taken, given)


def train_other_model() -> None:
    """DDP and FSDP call from C++: a layer more on one rank."""
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 4))
    model(torch.ones(2, 8)).sum().backward()
    if ODD:  # < ddp: rank
        dist.all_reduce(torch.ones(3))
    model(torch.ones(2, 8)).sum().backward()
    dist.all_reduce(torch.ones(3))


def train_in_another_order() -> None:
    """All calls come from C++: the buckets of two models, in another order on one rank."""
    models = [nn.parallel.DistributedDataParallel(nn.Linear(size, size)) for size in (4, 30)]
    for turn in range(6):
        if turn == 3:
            with gate("order") as pipe:
                pipe.read(1)
        for model in models[:: -1 if ODD and turn > 2 else 1]:
            model(torch.ones(2, model.module.in_features)).sum().backward()


def pass_monitored_barrier() -> None:
    if RANK in (1, 2):  # < monitored: rank
        with open(silent_pipe("work"), "rb") as pipe:
            pipe.read(1)
    dist.monitored_barrier(timeout=timedelta(seconds=6), wait_all_ranks=True)


def send_too_much() -> None:
    if RANK == 0:  # < p2p: rank
        dist.send(torch.ones(200), 1)
    else:
        dist.recv(torch.ones(100), 0)
    dist.barrier()


WAYS = {
    "skipped": skip_bad_batch,
    "splits": split_unevenly,
    "ddp": train_other_model,
    "ddp_order": train_in_another_order,
    "monitored": pass_monitored_barrier,
    "p2p": send_too_much,
}

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(8))
step("go")
WAYS[WAY]()
step("done")
dist.barrier()
