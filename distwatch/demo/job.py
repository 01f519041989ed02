"""A training job as anyone writes it: a sharded Llama checkpoint, from_pretrained, DDP, and a
loader that reads token shards from files. One rank fails in the requested way.
"""

import distwatch.auto  # noqa: F401, I001
import argparse
import ctypes
import os
import queue
import signal
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

VOCABULARY, SEQUENCE, BATCH = 4096, 32, 2
BATCHES_PER_SHARD, SHARDS = 4, 3
TROUBLE_AT = 5
"""The step at which a rank fails: late enough to see the job work first."""


def make_checkpoint(folder: str) -> None:
    """Writes a Llama of about 20 MB, in several shards."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="5MB")


def mirror_checkpoint(source: str, folder: str) -> str:
    """A node's own copy of the checkpoint, with one shard on storage that hangs."""
    os.makedirs(folder)
    for name in os.listdir(source):
        os.symlink(os.path.join(source, name), os.path.join(folder, name))
    shard = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))[2]
    os.unlink(os.path.join(folder, shard))
    os.mkfifo(os.path.join(folder, shard))
    return folder


def write_shards(folder: str, rank: int, stalled: bool) -> list[str]:
    """Writes this rank's token shards; a stalled one is a pipe that nobody writes to."""
    os.makedirs(folder, exist_ok=True)
    generator = torch.Generator().manual_seed(rank)
    paths = []
    for number in range(SHARDS):
        path = os.path.join(folder, f"tokens-{rank:02}-{number:03}.bin")
        if stalled and number == 1:
            os.mkfifo(path)
        else:
            shape = (BATCHES_PER_SHARD, BATCH, SEQUENCE)
            tokens = torch.randint(0, VOCABULARY, shape, generator=generator)
            with open(path, "wb") as file:
                file.write(tokens.numpy().tobytes())
        paths.append(path)
    return paths


class TokenLoader:
    """Batches from shard files, one shard in memory at a time."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[Any]:
        for path in self.paths:
            yield from self.read_shard(path)

    def read_shard(self, path: str) -> Any:
        with open(path, "rb") as file:
            content = file.read()
        tokens = torch.frombuffer(bytearray(content), dtype=torch.int64)
        return tokens.reshape(-1, BATCH, SEQUENCE)


def evaluate_on_one_rank() -> None:
    """Waits for the result of a worker that has ended without one."""
    results: queue.Queue[float] = queue.Queue()
    print(f"perplexity {results.get():.2f}")


def call_native_kernel() -> None:
    """Native code that keeps the GIL, like an extension that forgot to release it."""
    ctypes.PyDLL(None).sleep(3600)


def get_into_trouble(case: str, rank: int) -> None:
    """What this case does to this rank at step TROUBLE_AT; nothing for most ranks."""
    if (case, rank) == ("rank_missing", 1):
        evaluate_on_one_rank()
    elif (case, rank) == ("gil_held", 0):
        call_native_kernel()
    elif (case, rank) == ("exited", 2):
        raise ValueError("token 4096 is outside the vocabulary of 4096")
    elif (case, rank) == ("killed", 3):
        os.kill(os.getpid(), signal.SIGKILL)


def train(model: Any, loader: TokenLoader, case: str, rank: int) -> None:
    """One pass over the data."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step, tokens in enumerate(loader):
        if step == TROUBLE_AT:
            get_into_trouble(case, rank)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    """Loads, trains, ends."""
    options = argparse.ArgumentParser()
    options.add_argument("case")
    options.add_argument("--folder", required=True)
    options.add_argument("--limit", type=int, required=True, help="seconds until SIGALRM")
    arguments = options.parse_args()
    # The kernel's default action ends the process even while native code holds the GIL.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, arguments.limit)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end with torchrun

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    checkpoint = os.path.join(arguments.folder, "checkpoint")
    if rank == 0:
        make_checkpoint(checkpoint)
    dist.barrier()
    if (arguments.case, rank) == ("load_stall", 1):
        checkpoint = mirror_checkpoint(checkpoint, os.path.join(arguments.folder, "mirror"))
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    # DDP would broadcast the buffers: rotary tables, the same on every rank.
    model = DistributedDataParallel(model, broadcast_buffers=False)
    stalled = (arguments.case, rank) == ("data_stall", 2)
    data = os.path.join(arguments.folder, "data")
    train(model, TokenLoader(write_shards(data, rank, stalled)), arguments.case, rank)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
