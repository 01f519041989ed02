"""The double of 0.5.9's runner, which builds the groups itself and only where there are none."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from sglang.srt.distributed import parallel_state


class ModelRunner:
    """Without weights: a forward is a sum over the tensor group."""

    def __init__(
        self, model_config: Any, mem_fraction_static: float, gpu_id: int, tp_rank: int, tp_size: int,
        moe_ep_rank: int, moe_ep_size: int, pp_rank: int, pp_size: int, nccl_port: int, server_args: Any,
    ) -> None:  # fmt: skip
        parallel_state.init_distributed_environment(
            tp_size * pp_size, dist.get_rank(), f"tcp://127.0.0.1:{nccl_port}", gpu_id, "gloo"
        )
        parallel_state.initialize_model_parallel(tp_size, moe_ep_size, pp_size)
        self.tp_rank, self.group = tp_rank, parallel_state.get_tp_group()
        self.max_running_requests = server_args.max_running_requests

    def forward(self) -> float:
        """How many ranks have a part of a layer."""
        return float(self.group.all_reduce(torch.ones(1)).item())
