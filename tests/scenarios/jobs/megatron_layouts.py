"""Forms Megatron-core's parallel state in several layouts, one after the other, in one process.

Each argument is `how:tensor,pipeline,context,expert`: `own` by Megatron's own initializer, bound
before distwatch could hook it, `ours` by distwatch.initialize."""

from megatron.core.parallel_state import initialize_model_parallel  # noqa: I001

import distwatch.auto
import json
import os
import sys

import distwatch
import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from steps import RANK, WORK, gate, step

GETTERS = {
    "tp": mpu.get_tensor_model_parallel_group,
    "pp": mpu.get_pipeline_model_parallel_group,
    "cp": mpu.get_context_parallel_group,
    "dp": mpu.get_data_parallel_group,
    "ep": mpu.get_expert_model_parallel_group,
}
ARGUMENTS = ("tensor", "pipeline", "context", "expert")


def build(how: str, sizes: list[int]) -> dict[str, object]:
    if how == "ours":
        world = distwatch.initialize("gloo", "megatron", **dict(zip(ARGUMENTS, sizes, strict=True)))
        return {"groups": dict(world.groups), "roles": len(world.roles["megatron"])}
    names = ("tensor_model", "pipeline_model", "context", "expert_model")
    given = {f"{name}_parallel_size": size for name, size in zip(names, sizes, strict=True)}
    initialize_model_parallel(**given)
    return {}


def check_groups() -> dict[str, list[int]]:
    """A real sum over every group, and its members as torch has them."""
    held = {}
    for axis, getter in GETTERS.items():
        total = torch.tensor([float(RANK)])
        dist.all_reduce(total, group=getter())
        held[axis] = dist.get_process_group_ranks(getter())
        assert total.item() == sum(held[axis])
    return held


written = []
for argument in sys.argv[1:]:
    how, _, sizes = argument.partition(":")
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    told = build(how, [int(size) for size in sizes.split(",")])
    written.append({**told, "held": check_groups()})
    step(argument)
    if argument != sys.argv[-1]:
        mpu.destroy_model_parallel()
with open(os.path.join(WORK, f"layouts-{RANK}.json"), "w") as file:
    json.dump(written, file)
step("written")
gate("end").read(1)
