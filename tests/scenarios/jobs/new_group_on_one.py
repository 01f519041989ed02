"""pt#134314: only rank 0 calls new_group, then all meet in a barrier."""

import distwatch.auto  # noqa: F401, I001
import torch.distributed as dist
from steps import RANK, step

dist.init_process_group("gloo")
dist.barrier()
step("initialized")
if RANK == 0:
    dist.new_group([0, 1], group_desc="evaluation")
dist.barrier()
