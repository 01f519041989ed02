"""One rank stalls in the creation of a framework's groups; the others write down what they are told.

The first argument says who builds the groups: `fresh`, `added` (to a world of distwatch's), `own` (added to
a world that torch formed), `itself` (the framework's own initializer, without distwatch.initialize), or `again`
(with other sizes, where the first ones held and were released).
"""

import distwatch.auto  # noqa: I001
import json
import os
import sys
from typing import Any

import distwatch
import torch
import torch.distributed as dist
from outcome import write_down
from steps import RANK, gate, silent_pipe, step

HOW, FRAMEWORK = sys.argv[1:3]
CHOICE = json.loads(os.environ.get("TEST_CHOICE", "{}"))
STAY = silent_pipe("stay")
OTHERS = {"tensor": 1, "context" if FRAMEWORK == "accelerate" else "pipeline": 2}
"""Sizes beside tensor 2; accelerate has no stages."""


def stall_at_its_first_group() -> None:
    """The framework's call of `new_group` goes to a function that does not return."""
    original = dist.new_group

    def stall(*_: Any, **__: Any) -> None:
        step("stalled")
        with open(STAY) as pipe:
            pipe.read()

    for module in list(sys.modules.values()):
        if vars(module).get("new_group") is original:
            vars(module)["new_group"] = stall


def stay_elsewhere() -> None:
    step("elsewhere")
    with open(STAY) as pipe:
        pipe.read()


def build_itself() -> None:
    if FRAMEWORK in ("mesh", "accelerate"):
        from torch.distributed.device_mesh import init_device_mesh

        init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    elif FRAMEWORK == "megatron":
        from megatron.core import parallel_state

        parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    elif FRAMEWORK == "neuron":
        from neuronx_distributed.parallel_layers import parallel_state

        parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    else:
        from sglang.srt.distributed import parallel_state

        parallel_state.init_distributed_environment(dist.get_world_size(), RANK, backend="gloo")
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)


def import_framework() -> None:
    """What the framework binds early must be there before the stall is put in."""
    if FRAMEWORK != "mesh":
        from distwatch.integrations.frameworks.framework import framework_of

        framework_of(FRAMEWORK).module()


def build() -> None:
    arguments = {"framework": FRAMEWORK, "tensor": 2, **CHOICE}
    if HOW == "again":
        world = distwatch.initialize("gloo", **arguments)
        arguments |= OTHERS
        try:
            distwatch.initialize("gloo", **arguments)
        except distwatch.AlreadyInitialized as error:
            step(f"refused {error.held} / {error.asked}")
        world.release(FRAMEWORK)
    if HOW == "added":
        distwatch.initialize("gloo")
    elif HOW in ("own", "itself"):
        dist.init_process_group("gloo")
    import_framework()
    if os.environ.get("TEST_STALLS"):
        stall_at_its_first_group()
    if os.environ.get("TEST_STAYS"):
        stay_elsewhere()
    step("building")
    if HOW == "itself":
        build_itself()
    else:
        world = distwatch.initialize("gloo", **arguments)
        assert distwatch.initialize("gloo", **arguments) is world
        if world.mesh is not None:
            total = torch.ones(1)
            dist.all_reduce(total, group=world.mesh.get_group("tp"))
            assert total.item() == len(world.groups["tp"]) == 2


try:
    build()
except Exception as error:
    write_down(error)
else:
    step("built")
gate("end").read(1)
