"""The double's parallel state: globals for this rank's groups, and lists of all groups beside them.

What is kept of the contract: bare asserts, sizes larger than the world cut down to it, a second
call that is not refused, and a way out that forgets the groups without destroying them.
"""

from __future__ import annotations

import os
from collections import namedtuple
from typing import Any

import torch.distributed as dist

_WORLD_GROUP: Any = None
_WORLD_GROUP_SPMD: Any = None
_TENSOR_MODEL_PARALLEL_GROUP: Any = None
_TENSOR_MODEL_PARALLEL_GROUP_SPMD: Any = None
_PIPELINE_MODEL_PARALLEL_GROUP: Any = None
_PIPELINE_MODEL_PARALLEL_GROUP_SPMD: Any = None
_DATA_PARALLEL_GROUP: Any = None
_DATA_PARALLEL_GROUP_SPMD: Any = None
_CONTEXT_MODEL_PARALLEL_GROUP: Any = None
_CONTEXT_MODEL_PARALLEL_GROUP_SPMD: Any = None
_EXPERT_MODEL_PARALLEL_GROUP: Any = None
_EXPERT_MODEL_PARALLEL_GROUP_SPMD: Any = None
_EXP_DATA_PARALLEL_GROUP: Any = None
_EXP_DATA_PARALLEL_GROUP_SPMD: Any = None

GENERATION = tuple(int(part) for part in os.environ.get("TEST_NXD", "0.18").split("."))
ParallelGroups = namedtuple("ParallelGroups", "tp_groups dp_groups pp_groups cp_groups")

if GENERATION >= (0, 10):

    def cpu_mode() -> bool:
        """The switch with which groups are gloo's."""
        return os.environ.get("NXD_CPU_MODE", "0") == "1"


def _cut(world: int, inner: int, size: int) -> list[list[int]]:
    """Groups of `size` ranks that lie `inner` apart."""
    block = inner * size
    return [
        list(range(start + place, start + place + block, inner))
        for start in range(0, world, block)
        for place in range(inner)
    ]


def _build(tp: int, pp: int, cp: int, ep: int, mesh_only: bool = False) -> Any:
    assert dist.is_initialized()
    world = dist.get_world_size()
    tp, pp, cp, ep = (min(size, world) for size in (tp, pp, cp, ep))
    if world % (tp * pp * cp):
        raise RuntimeError(
            f"invalid implied data parallel degree: `world_size` ({world}) is not divisible by "
            f"tensor_model_parallel_size ({tp}) x pipeline_model_parallel_size ({pp})"
        )
    dp = world // (tp * pp * cp)
    listed = {
        "_WORLD_GROUP": _cut(world, 1, world),
        "_TENSOR_MODEL_PARALLEL_GROUP": _cut(world, 1, tp),
        "_DATA_PARALLEL_GROUP": _cut(world, tp * cp, dp),
        "_PIPELINE_MODEL_PARALLEL_GROUP": _cut(world, tp * cp * dp, pp),
    }
    if GENERATION >= (0, 9):
        listed["_EXP_DATA_PARALLEL_GROUP"] = _cut(world, tp * ep, world // (tp * pp * ep))
        listed["_EXPERT_MODEL_PARALLEL_GROUP"] = _cut(world, tp, ep)
    if GENERATION >= (0, 11):
        listed["_CONTEXT_MODEL_PARALLEL_GROUP"] = _cut(world, tp, cp)
    if mesh_only:
        names = "_TENSOR_MODEL", "_DATA", "_PIPELINE_MODEL", "_CONTEXT_MODEL"
        return ParallelGroups(*(listed[f"{name}_PARALLEL_GROUP"] for name in names))
    for name, groups in listed.items():
        globals()[f"{name}_SPMD"] = groups
        for ranks in groups:
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                globals()[name] = group
    return None


if GENERATION >= (0, 15):

    def initialize_model_parallel(
        tensor_model_parallel_size: int = 1, pipeline_model_parallel_size: int = 1,
        context_parallel_size: int = 1, expert_model_parallel_size: int = 1,
        skip_collective_init: bool = False, lnc_size: int = 1, mesh_only: bool = False,
    ) -> Any:  # fmt: skip
        """0.15 to 0.18."""
        return _build(
            tensor_model_parallel_size,
            pipeline_model_parallel_size,
            context_parallel_size,
            expert_model_parallel_size,
            mesh_only,
        )

elif GENERATION >= (0, 11):

    def initialize_model_parallel(  # type: ignore[misc]
        tensor_model_parallel_size: int = 1, pipeline_model_parallel_size: int = 1,
        context_parallel_size: int = 1, expert_model_parallel_size: int = 1,
        skip_collective_init: bool = False, lnc_size: int = 1,
    ) -> Any:  # fmt: skip
        """0.11 to 0.13: context came third, before expert."""
        return _build(
            tensor_model_parallel_size,
            pipeline_model_parallel_size,
            context_parallel_size,
            expert_model_parallel_size,
        )

elif GENERATION >= (0, 10):

    def initialize_model_parallel(  # type: ignore[misc]
        tensor_model_parallel_size: int = 1, pipeline_model_parallel_size: int = 1,
        expert_model_parallel_size: int = 1, skip_collective_init: bool = False, lnc_size: int = 1,
    ) -> Any:  # fmt: skip
        """0.10: expert third."""
        return _build(
            tensor_model_parallel_size, pipeline_model_parallel_size, 1, expert_model_parallel_size
        )

else:

    def initialize_model_parallel(  # type: ignore[misc]
        tensor_model_parallel_size: int = 1, pipeline_model_parallel_size: int = 1
    ) -> Any:
        """0.5 to 0.8."""
        return _build(tensor_model_parallel_size, pipeline_model_parallel_size, 1, 1)


def model_parallel_is_initialized() -> bool:
    """By tensor's and data's groups."""
    return _TENSOR_MODEL_PARALLEL_GROUP is not None and _DATA_PARALLEL_GROUP is not None


def get_tensor_model_parallel_group() -> Any:
    """One text for several getters."""
    assert _TENSOR_MODEL_PARALLEL_GROUP, "intra_layer_model parallel group is not initialized"
    return _TENSOR_MODEL_PARALLEL_GROUP


def destroy_model_parallel() -> None:
    """Forgets them."""
    for name in list(globals()):
        if name.endswith(("_GROUP", "_GROUP_SPMD")):
            globals()[name] = None


class NeuronAttention:
    """A layer that asks for the state when it is built, as the models of its examples do."""

    def __init__(self) -> None:
        if not model_parallel_is_initialized():
            raise ValueError(
                "NeuronAttention has to be initialized in a distributed env. Please use neuronx_distributed "
                "module to initialize a distributed env."
            )


class GQAQKVColumnParallelLinear:
    """The check of key and value heads against tensor's size, in the words of the real layer."""

    def __init__(self, kv_output_dim: int, kv_size_multiplier: int = 1) -> None:
        tp_world_size = dist.get_world_size(get_tensor_model_parallel_group())
        assert tp_world_size % kv_size_multiplier == 0, (
            "tp_world_size should be divisible by kv_size_multiplier"
        )
        assert (kv_output_dim * kv_size_multiplier) % tp_world_size == 0, (
            "kv_output_dim*kv_size_multiplier should be divisible by tp_world_size"
        )
