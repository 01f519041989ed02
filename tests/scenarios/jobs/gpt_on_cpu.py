"""A tiny real GPT of Megatron's, on CPUs."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core import parallel_state, utils
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.pipeline_parallel import p2p_communication, schedules
from megatron.core.tensor_parallel import random as tensor_random
from megatron.core.transformer import dot_product_attention
from megatron.core.transformer.transformer_config import TransformerConfig

LENGTH = 16
TOKENS = 64


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


def build_gpt(tensor: int, pipeline: int, hidden: int = 32) -> GPTModel:
    """This rank's part, after `initialize_model_parallel` with the same sizes."""
    config = TransformerConfig(
        num_layers=2, hidden_size=hidden, num_attention_heads=4, use_cpu_initialization=True,
        tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline,
        pipeline_dtype=torch.float32, attention_dropout=0.0, hidden_dropout=0.0,
        gradient_accumulation_fusion=False, bias_dropout_fusion=False,
    )  # fmt: skip
    return GPTModel(
        config, get_gpt_layer_local_spec(), vocab_size=TOKENS, max_sequence_length=LENGTH,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )  # fmt: skip


def _mean(losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    return losses.mean(), {"loss": losses.detach().mean().item()}


def _forward(data: Iterator[torch.Tensor], model: GPTModel) -> tuple[torch.Tensor, Any]:
    tokens = next(data)
    positions = torch.arange(LENGTH).unsqueeze(0)
    mask = torch.ones(1, 1, LENGTH, LENGTH).tril() < 0.5
    return model(tokens, positions, mask, labels=tokens), partial(_mean)


def run_step(model: GPTModel, data: Iterator[torch.Tensor], microbatches: int) -> Any:
    """Forward and backward by Megatron's own schedule; the losses."""
    return schedules.get_forward_backward_func()(
        forward_step_func=_forward, data_iterator=data, model=model, num_microbatches=microbatches,
        seq_length=LENGTH, micro_batch_size=1, forward_only=False,
    )  # fmt: skip
