"""Rank 0 alone has work to do, the others wait for it in a barrier, legitimately."""

import distwatch.auto  # noqa: F401, I001
import torch.distributed as dist
from steps import RANK, gate, step

dist.init_process_group("gloo")
dist.barrier()
if RANK == 0:
    gate("checkpoint").read(1)
step("barrier")
dist.barrier()
step("done")
dist.destroy_process_group()
