"""Ranks that meet, reduce, wait at a gate, and reduce again: what happens to them is the test's."""

import distwatch.auto  # noqa: F401, I001
import torch
import torch.distributed as dist
from steps import RANK, gate, step

dist.init_process_group("gloo")
for _ in range(3):
    dist.all_reduce(torch.ones(8))
gate("reduce").read(1)
step("reducing")
dist.all_reduce(torch.ones(1 << 16))
step("reduced")
print(f"rank {RANK} done")
# Without it torch itself aborts now and then at exit, with or without distwatch.
dist.destroy_process_group()
