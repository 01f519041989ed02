"""The double of 0.5.23's runner: everything around it stands before it is made."""

from __future__ import annotations

from typing import Any

import torch

from sglang.srt.distributed.parallel_state import get_tp_group
from sglang.srt.runtime_context import assert_published, get_parallel


def read_weights() -> None:
    """None are there; a test stalls in it, and in the others."""


def choose_attention() -> None:
    """torch's own."""


def allocate() -> None:
    """No keys and values are kept."""


def size_cache() -> None:
    """There is none."""


def capture() -> None:
    """A CPU has no graphs."""


class ModelRunner:
    """Without weights: a forward is a sum over the tensor group."""

    def __init__(
        self, model_config: Any, mem_fraction_static: float, gpu_id: int, nccl_port: int, server_args: Any
    ) -> None:  # fmt: skip
        assert_published(server_args, role="scheduler")
        self.tp_rank, self.group = get_parallel().tp_rank, get_tp_group()
        self.max_running_requests = server_args.max_running_requests
        self.load_model()

    def load_model(self) -> None:
        """Called by the constructor; the other parts by whoever builds the runner."""
        read_weights()

    def alloc_memory_pool(self) -> None:
        """After the weights, of what memory is left."""
        self.init_kv_cache_configurator()
        allocate()

    def init_kv_cache_configurator(self) -> None:
        """How many tokens fit."""
        size_cache()

    def init_attention_backends(self) -> None:
        """After the pool."""
        choose_attention()

    def init_cuda_graphs(self) -> None:
        """The last part."""
        capture()

    def forward(self) -> float:
        """How many ranks have a part of a layer."""
        return float(self.group.all_reduce(torch.ones(1)).item())
