"""pt#33148: one rank has a batch more than the others, who have gone on to a barrier."""

import distwatch.auto  # noqa: F401, I001
import torch
import torch.distributed as dist
from steps import RANK, step

dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
batches = 4 if RANK == 1 else 3
for _ in range(batches):
    model(torch.ones(2, 4)).sum().backward()
step("barrier")
dist.barrier()
