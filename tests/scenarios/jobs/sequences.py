"""Ranks whose collectives do not fit, or that leave them, in the ways of training code.

Usage: sequences.py CASE RANK
"""

import distwatch.auto  # noqa: F401, I001
import os
import queue
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from steps import RANK, step
from torch import nn

CASE, WHO = sys.argv[1], int(sys.argv[2])
WORLD = int(os.environ["WORLD_SIZE"])
ODD = RANK == WHO


def reduce_gradients(count: int) -> None:
    for _ in range(count):
        dist.all_reduce(torch.ones(8))


def wait_for_evaluation() -> None:
    queue.Queue[int]().get()


def train_sharded(count: int) -> None:
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before torch 2.6
        from torch.distributed._composable.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    for _ in range(count):
        model(torch.ones(2, 8)).sum().backward()


def train_replicated(count: int) -> None:
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)))
    for _ in range(count):
        model(torch.ones(2, 8)).sum().backward()


def gather_sharded_tensor(count: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (WORLD,), mesh_dim_names=("tp",))
    tensor = distribute_tensor(torch.ones(8, 8), mesh, [Shard(0)])
    for number in range(count):
        if number == count - 1 and ODD:
            wait_for_evaluation()
        tensor.redistribute(mesh, [Replicate()]).to_local()


def swap_once() -> None:
    for number in range(4):
        if number == 2 and ODD:
            dist.broadcast(torch.ones(3), 0)
            dist.all_reduce(torch.ones(8))
        else:
            dist.all_reduce(torch.ones(8))
            dist.broadcast(torch.ones(3), 0)


def call_in_epochs() -> None:
    for epoch in range(3):
        reduce_gradients(2 if epoch == 1 and ODD else 3)
        dist.barrier()


def wait_in_groups() -> None:
    halves = [dist.new_group(list(range(half, WORLD, 2))) for half in (0, 1)]
    reduce_gradients(2)
    if ODD:
        wait_for_evaluation()
    dist.all_reduce(torch.ones(8), group=halves[RANK % 2])
    reduce_gradients(1)


def differ_in_timeouts() -> None:
    timeout = timedelta(seconds=5 if ODD else 500)
    group = dist.new_group(list(range(WORLD)), timeout=timeout, group_desc="eval")
    dist.all_reduce(torch.ones(8), group=group)


def all_reduce_other_shapes() -> None:
    dist.barrier()  # it ends ranks at once, also before the last one has come
    dist.all_reduce(torch.ones(100 if ODD else 200))


CASES = {
    "loop": lambda: reduce_gradients(4 if ODD else 3),
    "epochs": call_in_epochs,
    "ddp": lambda: train_replicated(4 if ODD else 3),
    "fsdp": lambda: train_sharded(3 if ODD else 2),
    "fsdp_left": lambda: train_sharded(2) or (wait_for_evaluation() if ODD else train_sharded(1)),
    "dtensor": lambda: gather_sharded_tensor(4),
    "swapped": swap_once,
    "main_process": lambda: dist.all_gather_object([None] * WORLD, 1) if ODD else None,
    "dtype": lambda: dist.all_reduce(torch.ones(8, dtype=torch.float64 if ODD else torch.float32)),
    "shape": all_reduce_other_shapes,
    "groups": wait_in_groups,
    "timeouts": differ_in_timeouts,
    "monitored": lambda: wait_for_evaluation() if ODD else dist.monitored_barrier(),
}

dist.init_process_group("gloo")
step("go")
CASES[CASE]()
dist.barrier()
step("done")
# Without it torch itself aborts now and then at exit, with or without distwatch.
dist.destroy_process_group()
