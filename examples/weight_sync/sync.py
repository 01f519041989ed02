"""Two training ranks hand their weights to two engine ranks, in a group beside the default one.

    distwatch run --deadlines collective=20 -- torchrun --nproc-per-node=4 examples/weight_sync/sync.py [--stall PART]

As RLinf and SGLang do it: the training ranks gather each tensor from their shards and convert its name, the first of
them broadcasts it, and each engine loads it. With `--stall`, one rank does not come to an end of that part of the
second tensor: `gather`, `convert` and `broadcast` on a training rank, `load` on an engine.
"""

import argparse
import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _new_process_group_helper, _world

NAME = "weight_update"
TIMEOUT = timedelta(seconds=300)
NAMES = ("embedding", "layers.0.weight", "layers.0.bias")
PORT = int(os.environ.get("SYNC_PORT", "29611"))
TRAINERS = 2


def join_update_group(number: int, size: int) -> dist.ProcessGroup:
    """As RLinf's and SGLang's engines do it: a store and a group of their own."""
    # torchrun makes every rank a client of its own store, so this one names its host itself.
    store = dist.TCPStore("127.0.0.1", PORT, size, is_master=number == 0, timeout=TIMEOUT)
    group, _ = _new_process_group_helper(
        size, number, [], "gloo", PrefixStore(NAME, store), group_name=NAME, timeout=TIMEOUT
    )
    _world.pg_group_ranks[group] = {member: member for member in range(size)}
    return group


def work(stalls: bool) -> None:
    while stalls:
        time.sleep(1)


def gather_tensor(number: int, trainers: dist.ProcessGroup, stalls: bool) -> torch.Tensor:
    work(stalls and dist.get_rank() == 1)
    shards = [torch.empty(2) for _ in range(TRAINERS)]
    dist.all_gather(shards, torch.full((2,), float(number)), group=trainers)
    return torch.cat(shards)


def convert_name(name: str, stalls: bool) -> str:
    work(stalls)
    return f"model.{name}"


def broadcast_tensor(group: dist.ProcessGroup, weight: torch.Tensor, stalls: bool = False) -> None:
    work(stalls)
    group.broadcast([weight], dist.BroadcastOptions()).wait()


def load_tensor(name: str, stalls: bool) -> None:
    """What an engine does with a tensor before it can take the next one."""
    work(stalls)
    print(f"loaded {name}", flush=True)


def sync_model_to_rollout(
    group: dist.ProcessGroup | None, trainers: dist.ProcessGroup, part: str
) -> None:
    """The side of the training ranks, the first of which is in the engines' group."""
    for number, name in enumerate(NAMES):
        here = part if number == 1 else ""
        weight = gather_tensor(number, trainers, here == "gather")
        if group is not None:
            convert_name(name, here == "convert")
            broadcast_tensor(group, weight, here == "broadcast")
    dist.barrier(group=trainers)


def sync_model_from_actor(group: dist.ProcessGroup, part: str) -> None:
    """The side of an engine."""
    for number, name in enumerate(NAMES):
        weight = torch.full((4,), -1.0)
        broadcast_tensor(group, weight)
        assert weight[0] == number
        load_tensor(name, stalls=part == "load" and number == 1 and dist.get_rank() == TRAINERS)


def main(part: str) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    trainers = dist.new_group(list(range(TRAINERS)), group_desc="trainers")
    joins = rank == 0 or rank >= TRAINERS
    group = join_update_group(max(0, rank - TRAINERS + 1), size - TRAINERS + 1) if joins else None
    if rank < TRAINERS:
        sync_model_to_rollout(group, trainers, part)
    elif group is not None:
        sync_model_from_actor(group, part)
    print(f"rank {rank} is through with {len(NAMES)} tensors", flush=True)
    # With all groups: else torch's threads may abort the interpreter at its end.
    dist.destroy_process_group()


parser = argparse.ArgumentParser()
parser.add_argument("--stall", default="", choices=("gather", "convert", "broadcast", "load"))
main(parser.parse_args().stall)
