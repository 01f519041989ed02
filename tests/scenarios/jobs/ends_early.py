"""Rank 1 ends while the others wait. Usage: ends_early.py raise|exit|wait

`wait`: it waits in user code, for the test to stop or kill it.
"""

import distwatch.auto  # noqa: F401, I001
import sys

import torch.distributed as dist
from steps import RANK, gate, step


def compute_loss() -> None:
    raise ValueError("the loss is not finite")


dist.init_process_group("gloo")
dist.barrier()
if RANK == 1:
    step("ending")
    if sys.argv[1] == "raise":
        compute_loss()
    if sys.argv[1] == "exit":
        sys.exit(0)
    gate("fate").read(1)
step("waiting")
dist.barrier()
