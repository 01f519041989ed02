"""A sound job: DDP steps, a sub-group, objects, and an end. It says what it computed."""

import distwatch.auto  # noqa: F401, I001
import os

import torch
import torch.distributed as dist
from steps import RANK, step
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
world = dist.get_world_size()
pair = dist.new_group([0, 1], group_desc="pair")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for batch in range(5):
    model(torch.full((2, 4), float(batch + RANK))).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
gathered: list[int | None] = [None] * world
dist.all_gather_object(gathered, RANK)
if RANK in (0, 1):
    dist.all_reduce(torch.ones(1), group=pair)
total = sum(parameter.detach().sum() for parameter in model.parameters())
print(f"result rank={RANK} gathered={gathered} weights={total:.6f}", flush=True)
step("done")
dist.destroy_process_group()
# After DDP, torch 2.13 can abort at interpreter exit, also where distwatch is off.
os._exit(0)
