"""A tiny real Megatron GPT, trained by Megatron's own schedules on gloo.

Usage: megatron_gpt.py TENSOR PIPELINE WAY. The ways: `sound` trains on; `shard` lets rank 3 read a
shard that never comes; `frozen` has no parameter that needs a gradient, as adapters on the wrong
stage leave it.
"""

import distwatch.auto  # noqa: F401, I001
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, utils
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.pipeline_parallel import p2p_communication, schedules
from megatron.core.tensor_parallel import random as tensor_random
from megatron.core.transformer import dot_product_attention
from megatron.core.transformer.transformer_config import TransformerConfig
from steps import RANK, gate, silent_pipe, step

TENSOR, PIPELINE, WAY = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
LENGTH, MICROBATCHES = 16, 2


class OnCpu:
    """torch for modules that write "cuda" out: the one thing of Megatron's that a CPU cannot do."""

    cuda = SimpleNamespace(current_device=lambda: "cpu", synchronize=lambda: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros(self, *args: Any, device: object = None, **more: Any) -> torch.Tensor:
        return torch.zeros(*args, **more)


schedules.torch = p2p_communication.torch = utils.torch = OnCpu()
no_tracker = SimpleNamespace(fork=lambda *_: nullcontext())
for module in (tensor_random, dot_product_attention.tensor_parallel):
    module.get_cuda_rng_tracker = lambda: no_tracker


def build_model() -> GPTModel:
    config = TransformerConfig(
        num_layers=2, hidden_size=32, num_attention_heads=4, use_cpu_initialization=True,
        tensor_model_parallel_size=TENSOR, pipeline_model_parallel_size=PIPELINE,
        pipeline_dtype=torch.float32, attention_dropout=0.0, hidden_dropout=0.0,
        gradient_accumulation_fusion=False, bias_dropout_fusion=False,
    )  # fmt: skip
    return GPTModel(
        config, get_gpt_layer_local_spec(), vocab_size=64, max_sequence_length=LENGTH,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )  # fmt: skip


def read_next_shard() -> None:
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)


def batches() -> Iterator[torch.Tensor]:
    for number in range(100):
        if WAY == "shard" and RANK == 3 and number == MICROBATCHES:
            read_next_shard()
        yield torch.arange(LENGTH).unsqueeze(0) % 64


def mean(losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    return losses.mean(), {"loss": losses.detach().mean().item()}


def forward(data: Iterator[torch.Tensor], model: GPTModel) -> tuple[torch.Tensor, Any]:
    tokens = next(data)
    positions = torch.arange(LENGTH).unsqueeze(0)
    mask = torch.ones(1, 1, LENGTH, LENGTH).tril() < 0.5
    return model(tokens, positions, mask, labels=tokens), partial(mean)


dist.init_process_group("gloo")
parallel_state.initialize_model_parallel(TENSOR, PIPELINE)
model = build_model()
if WAY == "frozen":
    model.requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
data = batches()
for number in range(3):
    optimizer.zero_grad()
    losses = schedules.get_forward_backward_func()(
        forward_step_func=forward, data_iterator=data, model=model, num_microbatches=MICROBATCHES,
        seq_length=LENGTH, micro_batch_size=1, forward_only=False,
    )  # fmt: skip
    optimizer.step()
    step(f"step {number}")
    if losses:
        print(number, losses[0], flush=True)
if WAY != "shard":
    gate("end").read(1)
