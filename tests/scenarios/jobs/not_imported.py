"""Never names distwatch: only the environment of an installed package turns it on."""

import torch
import torch.distributed as dist
from steps import RANK

dist.init_process_group("gloo")
total = torch.full((1,), float(RANK))
dist.all_reduce(total)
print(f"result {total.item():.0f}")
dist.destroy_process_group()
