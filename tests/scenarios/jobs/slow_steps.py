"""Every step is slow, and all of them together take longer than the collectives' deadline.

Usage: slow_steps.py [STEPS]
"""

import distwatch.auto  # noqa: F401, I001
import sys
import time

import torch
import torch.distributed as dist
from steps import RANK, step

dist.init_process_group("gloo")
for _ in range(int(sys.argv[1]) if sys.argv[1:] else 8):
    time.sleep(1.0 if RANK == 1 else 0.0)  # the work of one step
    dist.all_reduce(torch.ones(4))
step("done")
dist.destroy_process_group()
