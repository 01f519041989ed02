"""Rank 1 waits in front of init until it is let through, is killed there, or stays for ever."""

import distwatch.auto  # noqa: F401, I001
import torch
import torch.distributed as dist
from steps import RANK, gate, step


def read_the_token() -> None:
    gate("token").read(1)


if RANK == 1:
    read_the_token()
step("init")
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
step("reduced")
dist.destroy_process_group()
