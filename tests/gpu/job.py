"""A rank on one GPU, mostly in a real NCCL group of its own; what it does is its first argument."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from steps import WORK, gate, step

import distwatch.auto  # noqa: F401

WAY = sys.argv[1]


def communicate() -> None:
    """Some collectives that complete; then it waits for the test."""
    for _ in range(3):
        dist.all_reduce(torch.ones(1024, device="cuda"))
    torch.cuda.synchronize()
    from torch._C import _distributed_c10d as c10d

    dump = getattr(c10d, "_dump_nccl_trace", None) or c10d._dump_fr_trace
    Path(WORK, "nccl_trace_rank_0").write_bytes(dump())
    gate("held").read(1)


def never_end() -> None:
    """A kernel of days, and a CPU that waits for it; the other rank waits for that one in gloo: NCCL needs two GPUs."""
    if dist.get_rank() == 0:
        torch.cuda._sleep(10**15)
        step("launched")
        torch.cuda.synchronize()
    dist.barrier()


def index_out_of_bounds() -> None:
    """The device asserts, and the next synchronize raises."""
    table = torch.zeros(4, device="cuda")
    table[torch.tensor([1 << 20], device="cuda")].sum().item()


def exhaust_memory() -> None:
    """Four times the memory that the device has."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.empty(4 * total, dtype=torch.uint8, device="cuda")


def offload() -> None:
    """A small model, of which one layer lies on the GPU and the rest in the host's memory."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    small = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    places = {"model.embed_tokens": "cpu", "model.layers.0": 0, "model.layers.1": "cpu"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        LlamaForCausalLM(small).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, device_map=places)
        step("loaded")
        gate("held").read(1)
        del model


WAYS = {
    "communicates": communicate,
    "never_ends": never_end,
    "index": index_out_of_bounds,
    "memory": exhaust_memory,
    "offload": offload,
}
torch.cuda.set_device(0)
dist.init_process_group("gloo" if WAY == "never_ends" else "nccl")
WAYS[WAY]()
dist.destroy_process_group()
