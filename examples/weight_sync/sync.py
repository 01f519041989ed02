"""One training rank hands its weights to two engine ranks, in a group beside the default one.

    distwatch run --deadlines collective=20 -- torchrun --nproc-per-node=3 examples/weight_sync/sync.py [--stall]

With `--stall`, rank 2 loads the second tensor for ever and never enters its broadcast.
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


def join_update_group(rank: int, size: int) -> dist.ProcessGroup:
    """As RLinf's and SGLang's engines do it: a store and a group of their own."""
    # torchrun makes every rank a client of its own store, so this one names its host itself.
    store = dist.TCPStore("127.0.0.1", PORT, size, is_master=rank == 0, timeout=TIMEOUT)
    group, _ = _new_process_group_helper(
        size, rank, [], "gloo", PrefixStore(NAME, store), group_name=NAME, timeout=TIMEOUT
    )
    _world.pg_group_ranks[group] = {member: member for member in range(size)}
    return group


def load_tensor(name: str, stalls: bool) -> None:
    """What an engine does with a tensor before it can take the next one."""
    while stalls:
        time.sleep(1)
    print(f"loaded {name}", flush=True)


def main(stall: bool) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    group = join_update_group(rank, size)
    for number, name in enumerate(NAMES):
        weight = torch.full((4,), float(number if rank == 0 else -1))
        group.broadcast([weight], dist.BroadcastOptions()).wait()
        assert weight[0] == number
        if rank != 0:
            load_tensor(name, stalls=stall and rank == 2 and number == 1)
    print(f"rank {rank} has {len(NAMES)} tensors", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("--stall", action="store_true")
main(parser.parse_args().stall)
