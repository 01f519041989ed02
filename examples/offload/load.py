"""`from_pretrained` with a device map that does not fit: parts of the model stay on disk.

    distwatch run -- torchrun --nproc-per-node=2 examples/offload/load.py [--train]

The checkpoint is a tiny Llama that rank 0 makes first. Generating works like this, slowly. With `--train`,
each rank then wraps the model in DDP, which cannot use parameters that are on `meta`.
"""

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

FOLDER = os.environ.get("CHECKPOINT") or os.path.join(tempfile.gettempdir(), "distwatch-llama")


def make_checkpoint() -> None:
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(FOLDER, max_shard_size="200KB")


def main(train: bool) -> None:
    dist.init_process_group("gloo")
    if dist.get_rank() == 0:
        make_checkpoint()
    dist.barrier()
    model = AutoModelForCausalLM.from_pretrained(
        FOLDER, device_map="auto", max_memory={"cpu": "400KB"}, offload_folder=f"{FOLDER}-offload"
    )
    if train:
        model = torch.nn.parallel.DistributedDataParallel(model)
    with torch.no_grad():
        print(f"rank {dist.get_rank()}: {model(torch.ones(1, 4, dtype=torch.long)).logits.shape}")


parser = argparse.ArgumentParser()
parser.add_argument("--train", action="store_true")
main(parser.parse_args().train)
