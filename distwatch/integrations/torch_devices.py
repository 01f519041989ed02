"""The device that a rank works on."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from distwatch.agent.initialization.environment import Launched, backend_unavailable
from distwatch.state.advice import ONE_RANK_PER_GPU
from distwatch.state.finding import Finding
from distwatch.state.quantities import count_of


def default_backend() -> str:
    """nccl where there are GPUs, xla on a Neuron or TPU machine, else gloo."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available() and dist.is_nccl_available():
        return "nccl"
    if os.environ.get("PJRT_DEVICE") and importlib.util.find_spec("torch_xla") is not None:
        return "xla"
    return "gloo"


def device_of(backend: str) -> Any:
    """The `torch.device` of a backend's tensors."""
    import torch

    if "nccl" in backend:
        return torch.device("cuda", torch.cuda.current_device())
    if "xla" in backend:
        return importlib.import_module("torch_xla.core.xla_model").xla_device()
    return torch.device("cpu")


def device_identity(backend: str, launched: Launched) -> str:
    """The GPU that this rank will use, by its UUID; '' where it uses none."""
    import torch

    if "nccl" not in backend or not torch.cuda.is_available():
        return ""
    count = torch.cuda.device_count()
    index = launched.local_rank if count > 1 else 0
    if index >= count:
        return ""
    return str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))


def device_finding(launched: Launched) -> Finding | None:
    """This host has more ranks than visible GPUs; None where each rank has one."""
    import torch

    count, local = torch.cuda.device_count(), launched.local_rank
    # Slurm and Ray show each rank only its own GPU.
    if local < count or (count == 1 and _is_shown_one()):
        return None
    rank = launched.global_rank
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
    return backend_unavailable(
        f"rank {rank} has LOCAL_RANK {local}, but its process sees only {count_of(count, 'GPU')}{shown}",
        ONE_RANK_PER_GPU,
        rank,
        seen=f"{count_of(count, 'GPU')}, LOCAL_RANK {local}",
    )


def _is_shown_one() -> bool:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return bool(visible) and "," not in visible
