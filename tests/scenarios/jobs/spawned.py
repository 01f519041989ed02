"""Ranks that torch.multiprocessing.spawn starts; one does not stay. Usage: spawned.py raise|return|handled|kill"""

import distwatch.auto  # noqa: F401, I001
import os
import signal
import socket
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 3


def leave(way: str) -> None:
    if way == "raise":
        raise ValueError("the sample is damaged")
    if way == "handled":
        try:
            raise ValueError("the loss has converged")
        except ValueError:
            sys.exit(0)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def work(rank: int, port: int, way: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    dist.all_reduce(torch.ones(8))
    if rank == 1:
        leave(way)
        return
    dist.barrier()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        PORT = free.getsockname()[1]
    mp.spawn(work, (PORT, sys.argv[1]), nprocs=WORLD)
