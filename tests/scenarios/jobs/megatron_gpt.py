"""A tiny real Megatron GPT, trained by Megatron's own schedules on gloo.

Usage: megatron_gpt.py TENSOR PIPELINE WAY. The ways: `sound` trains on; `shard` lets rank 3 read a
shard that never comes; `frozen` has no parameter that needs a gradient, as adapters on the wrong
stage leave it.
"""

import distwatch.auto  # noqa: F401, I001
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
from gpt_on_cpu import LENGTH, TOKENS, build_gpt, run_step
from megatron.core import parallel_state
from steps import RANK, gate, silent_pipe, step

TENSOR, PIPELINE, WAY = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
MICROBATCHES = 2


def read_next_shard() -> None:
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)


def batches() -> Iterator[torch.Tensor]:
    for number in range(100):
        if WAY == "shard" and RANK == 3 and number == MICROBATCHES:
            read_next_shard()
        yield torch.arange(LENGTH).unsqueeze(0) % TOKENS


dist.init_process_group("gloo")
parallel_state.initialize_model_parallel(TENSOR, PIPELINE)
model = build_gpt(TENSOR, PIPELINE)
if WAY == "frozen":
    model.requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
data = batches()
for number in range(3):
    optimizer.zero_grad()
    losses = run_step(model, data, MICROBATCHES)
    optimizer.step()
    step(f"step {number}")
    if losses:
        print(number, losses[0], flush=True)
if WAY != "shard":
    gate("end").read(1)
