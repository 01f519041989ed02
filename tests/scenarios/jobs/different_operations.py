"""Ranks whose calls differ at one sequence number. Usage: different_operations.py swapped|object"""

import distwatch.auto  # noqa: F401, I001
import sys

import torch
import torch.distributed as dist
from steps import RANK, step

dist.init_process_group("gloo")
dist.barrier()
step("initialized")
if sys.argv[1] == "swapped":
    first = [lambda: dist.all_reduce(torch.ones(4)), lambda: dist.broadcast(torch.ones(4), 0)]
    for call in first if RANK == 0 else reversed(first):
        call()
else:
    # accelerate#2733: gathered under is_main_process, then a barrier for all.
    if RANK == 0:
        dist.all_gather_object([None] * dist.get_world_size(), {"loss": 1.0})
    dist.barrier()
