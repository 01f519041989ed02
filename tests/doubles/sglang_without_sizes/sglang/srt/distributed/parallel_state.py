"""The double of SGLang 0.5.23's parallel state: sizes and groups stand in the runtime's context."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from sglang.srt.runtime_context import get_parallel
from tests.doubles.sglang_groups import GroupCoordinator, build_groups, destroy_groups

_WORLD: GroupCoordinator | None = None
_TP = _PP = _ATTN_TP = _ATTN_CP = _MOE_EP = _MOE_TP = _MOE_DP = _SELF_PP = _WORLD
_NAMES = ("_TP", "_PP", "_ATTN_TP", "_ATTN_CP", "_MOE_EP", "_MOE_TP")


def init_distributed_environment(
    world_size: int = -1, rank: int = -1, distributed_init_method: str = "env://", local_rank: int = -1,
    backend: str = "nccl", timeout: int | None = None, moe_a2a_backend: str | None = None,
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
    get_parallel().override_permanently(world_group=_WORLD)


def initialize_model_parallel(
    backend: str | None = None, duplicate_tp_group: bool = False, enable_symm_mem: bool = False
) -> None:
    """The groups at the widths that are written, each once."""
    assert dist.is_initialized()
    backend = backend or str(dist.get_backend(get_world_group().device_group))
    parallel = get_parallel()
    sizes = [
        parallel.tp_size, parallel.pp_size, parallel.moe_ep_size, parallel.attn_dp_size, parallel.attn_cp_size,
        parallel.moe_dp_size,
    ]  # fmt: skip
    assert _TP is None, "tensor model parallel group is already initialized"
    made = build_groups(globals(), *sizes, backend)
    globals().update(made)
    parallel.override_permanently(**{f"{n.lower().lstrip('_')}_group": g for n, g in made.items()})


def get_world_group() -> Any:
    """All ranks."""
    return get_parallel().world_group


def get_tp_group() -> Any:
    """Who shares layers."""
    return get_parallel().tp_group


def get_pp_group() -> Any:
    """Who shares a pipeline."""
    return get_parallel().pp_group


def destroy_model_parallel() -> None:
    """All but the world, and what is written of it."""
    get_parallel().clear_stamp()
    destroy_groups(globals(), _NAMES)
