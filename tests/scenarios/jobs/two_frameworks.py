"""Megatron with a tensor size of 2, and accelerate beside it with that of the argument."""

import distwatch.auto  # noqa: I001
import sys

import distwatch
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from steps import gate, step

TENSOR = int(sys.argv[1])
world = distwatch.initialize("gloo", "megatron", tensor=2)
again = distwatch.initialize("gloo", "accelerate", tensor=TENSOR)
assert again is world
assert set(world.layouts) == {"megatron", "accelerate"}
assert world.groups["tp"] == world.layouts["megatron"]["tp"]
assert len(world.layouts["accelerate"]["tp"]) == TENSOR
total = torch.ones(1)
dist.all_reduce(total)
step("reduced")
gate("end").read(1)
world.close()
assert not dist.is_initialized()
assert not parallel_state.model_parallel_is_initialized()
assert (world.closed, world.layouts["megatron"]["tp"]) == (True, world.groups["tp"])
step("closed")
