"""Rank 1 cannot import what it needs and ends before init; rank 0 waits in the store."""

import distwatch.auto  # noqa: F401, I001
import torch.distributed as dist
from steps import RANK, step

if RANK == 1:
    import a_module_that_is_not_installed  # noqa: F401

step("init")
dist.init_process_group("gloo")
