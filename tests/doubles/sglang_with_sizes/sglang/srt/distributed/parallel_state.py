"""The double of SGLang 0.5.9's parallel state. Globals, and getters that assert."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from tests.doubles.sglang_groups import GroupCoordinator, build_groups, destroy_groups

_WORLD: GroupCoordinator | None = None
_TP = _PP = _ATTN_TP = _ATTN_CP = _MOE_EP = _MOE_TP = _MOE_DP = _WORLD
_NAMES = ("_TP", "_PP", "_ATTN_TP", "_ATTN_CP", "_MOE_EP", "_MOE_TP")


def init_distributed_environment(
    world_size: int = -1, rank: int = -1, distributed_init_method: str = "env://", local_rank: int = -1,
    backend: str = "nccl", timeout: int | None = None,
) -> None:  # fmt: skip
    """torch's default group where there is none, and the world's coordinator."""
    global _WORLD
    if not dist.is_initialized():
        dist.init_process_group(
            backend, init_method=distributed_init_method, world_size=world_size, rank=rank
        )
    if _WORLD is None:
        _WORLD = GroupCoordinator(
            [list(range(torch.distributed.get_world_size()))], backend, "world"
        )


def initialize_model_parallel(
    tensor_model_parallel_size: int = 1, expert_model_parallel_size: int = 1,
    pipeline_model_parallel_size: int = 1, attention_data_parallel_size: int = 1,
    attention_context_model_parallel_size: int = 1, moe_data_model_parallel_size: int = 1,
    backend: str | None = None, duplicate_tp_group: bool = False,
) -> None:  # fmt: skip
    """The groups, each once."""
    assert dist.is_initialized()
    assert _TP is None, "tensor model parallel group is already initialized"
    get_world_group()
    globals().update(
        build_groups(
            globals(),
            tensor_model_parallel_size,
            pipeline_model_parallel_size,
            expert_model_parallel_size,
            attention_data_parallel_size,
            attention_context_model_parallel_size,
            moe_data_model_parallel_size,
            backend or str(dist.get_backend()),
        )
    )


def _held(name: str, told: str) -> Any:
    group = globals()[name]
    assert group is not None, f"{told} is not initialized"
    return group


def get_world_group() -> Any:
    """All ranks."""
    return _held("_WORLD", "world group")


def get_tp_group() -> Any:
    """Who shares layers."""
    return _held("_TP", "tensor model parallel group")


def get_pp_group() -> Any:
    """Who shares a pipeline."""
    return _held("_PP", "pipeline model parallel group")


def destroy_model_parallel() -> None:
    """All but the world."""
    destroy_groups(globals(), _NAMES)
