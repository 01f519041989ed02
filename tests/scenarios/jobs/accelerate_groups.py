"""accelerate's device mesh, by accelerate itself or by distwatch.initialize."""

import distwatch.auto  # noqa: I001
import sys

import distwatch
import torch
import torch.distributed as dist
from accelerate.parallelism_config import ParallelismConfig
from steps import RANK, gate, step

if sys.argv[1] == "own":
    dist.init_process_group("gloo")
    mesh = ParallelismConfig(tp_size=2, dp_shard_size=2).get_device_mesh("cpu")
    tensor_group = mesh.get_group("tp")
else:
    world = distwatch.initialize("gloo", "accelerate", tensor=2)
    assert world.groups == {
        "world": (0, 1, 2, 3),
        "dp_shard": (RANK % 2, RANK % 2 + 2),
        "tp": (RANK // 2 * 2, RANK // 2 * 2 + 1),
        "dp": (RANK % 2, RANK % 2 + 2),
    }
    tensor_group = dist.group.WORLD
total = torch.ones(1)
dist.all_reduce(total, group=tensor_group)
step("reduced")
gate("end").read(1)
