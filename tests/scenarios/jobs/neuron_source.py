"""The real parallel state of neuronx-distributed, from a source tree."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from nxd_source import open_source_tree
from steps import RANK, gate

import distwatch.auto

open_source_tree(os.environ["DISTWATCH_NXD_SRC"])
BACKEND = os.environ.get("TEST_BACKEND", "gloo")
SIZES: dict[str, Any] = json.loads(os.environ.get("TEST_SIZES", "{}"))


def initialize() -> None:
    """Twice with the same plan, a sum over tensor's group, down, and up in another shape."""
    import torch
    import torch.distributed as dist

    world = distwatch.initialize(BACKEND, framework="neuron", **SIZES)
    assert distwatch.initialize(BACKEND, framework="neuron", **SIZES) is world
    from neuronx_distributed.parallel_layers import parallel_state

    assert parallel_state.model_parallel_is_initialized()
    summed = torch.ones(1) * (RANK + 1)
    if BACKEND == "gloo":
        dist.all_reduce(summed, group=parallel_state.get_tensor_model_parallel_group())
    found = {
        "groups": world.groups,
        "summed": summed.item(),
        "roles": sorted(world.roles["neuron"]),
    }
    world.close()
    if BACKEND == "gloo":
        found["again"] = distwatch.initialize("gloo", framework="neuron", tensor=world.size).groups
    with open(os.path.join(os.environ["TEST_WORK"], f"said-{RANK}.json"), "w") as file:
        json.dump(found, file)
    gate("end").read(1)


def on_xla() -> None:
    """On a world of xla's that torch formed: without a device, its collectives reach nobody."""
    import torch.distributed as dist
    import torch_xla.distributed.xla_backend  # noqa: F401

    try:
        distwatch.initialize("xla", framework="neuron", **SIZES)
    except distwatch.InitFailed as error:
        refused = str(error)
    dist.init_process_group("xla")
    world = distwatch.initialize("xla", framework="neuron", **SIZES)
    with open(os.path.join(os.environ["TEST_WORK"], f"said-{RANK}.json"), "w") as file:
        json.dump({"groups": world.groups, "refused": refused}, file)
    gate("end").read(1)


def too_early() -> None:
    """Before torch is initialized."""
    from neuronx_distributed.parallel_layers import parallel_state

    parallel_state.initialize_model_parallel(2)


def getter_too_early() -> None:
    """Before the parallel state is."""
    import torch.distributed as dist
    from neuronx_distributed.parallel_layers import parallel_state

    dist.init_process_group("gloo")
    parallel_state.get_tensor_model_parallel_group()


globals()[sys.argv[1]]()
