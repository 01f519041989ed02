"""A rank comes to a limit of its machine. Usage: limits.py WAY RANK"""

import distwatch.auto  # noqa: F401, I001
import os
import resource
import sys

import torch
import torch.distributed as dist
from steps import RANK, WORK, step

WAY, WHO = sys.argv[1], int(sys.argv[2])
ODD = RANK == WHO


def open_files() -> None:
    """A new group for each epoch, never closed."""
    if ODD:
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, used + 20))
    while True:
        dist.all_reduce(torch.ones(8), group=dist.new_group([0, 1]))


def leak_files() -> None:
    if ODD:  # < files: rank
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        for _ in range(400):
            os.dup(0)
    dist.barrier()


def fill_disk() -> None:
    """/dev/full answers as a full disk does."""
    if ODD:  # < disk: rank
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x" * 4096)
    dist.barrier()


def save_more_than_fits() -> None:
    """torch's writer does not say why it stops."""
    if ODD:  # < save: rank
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
        torch.save({"weight": torch.ones(4 << 20)}, os.path.join(WORK, "model.pt"))
    dist.barrier()


def wrap_the_error() -> None:
    """As trainers do."""
    if ODD:  # < wrapped: rank
        try:
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"x" * 4096)
        except OSError as error:
            raise RuntimeError("cannot save the checkpoint") from error
    dist.barrier()


def use_memory() -> None:
    if ODD:  # < memory: rank
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
        torch.ones(1 << 28)
    dist.barrier()


WAYS = {
    "group_files": open_files,
    "files": leak_files,
    "disk": fill_disk,
    "save": save_more_than_fits,
    "wrapped": wrap_the_error,
    "memory": use_memory,
}

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(8))
step("go")
WAYS[WAY]()
