"""Rank 1's checkpoint has a shard whose read never returns; the other waits in a barrier."""

import distwatch.auto  # noqa: F401, I001
import os

import torch.distributed as dist
from steps import RANK, WORK, silent_pipe, step
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

CHECKPOINT = os.path.join(WORK, f"checkpoint-{RANK}")


def make_checkpoint() -> None:
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(CHECKPOINT, max_shard_size="200KB")


def stall_a_shard() -> None:
    shards = sorted(name for name in os.listdir(CHECKPOINT) if name.endswith(".safetensors"))
    path = os.path.join(CHECKPOINT, shards[2])
    os.unlink(path)
    os.symlink(silent_pipe("storage"), path)


make_checkpoint()
dist.init_process_group("gloo")
if RANK == 1:
    stall_a_shard()
dist.barrier()
step("loading")
AutoModelForCausalLM.from_pretrained(CHECKPOINT)
dist.barrier()
step("loaded")
