"""After their last collective, ranks end when they like. Usage: different_ends.py return|os_exit"""

import distwatch.auto  # noqa: F401, I001
import os
import sys

import torch
import torch.distributed as dist
from steps import RANK, gate, step

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(4))
dist.barrier()
if sys.argv[1] == "return":
    # Without it torch itself aborts now and then at exit, with or without distwatch.
    dist.destroy_process_group()
step("done")
if RANK == 1:
    gate("last work").read(1)
if sys.argv[1] == "os_exit":
    os._exit(0)
