"""What the hooks cost a load: a 135 MB Llama in 7 shards, with and without distwatch.

Each load runs in a process of its own and is timed inside it; pairs alternate. Goal: under 1 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from typing import NamedTuple

MAKE = """
import sys
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=8000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
                     num_attention_heads=8, num_key_value_heads=8)
LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size="20MB")
"""
LOAD = """
import os, resource, sys, time
if os.environ["DISTWATCH"] == "1":
    import distwatch.auto
import torch
from transformers import LlamaForCausalLM
def load():
    # Tensors are mapped, not read, where the dtype stays: another one makes the load read all.
    return LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
times = []
for _ in range(1 + int(sys.argv[2])):
    began = time.perf_counter()
    load()
    times.append(time.perf_counter() - began)
print(times[0], min(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Timed(NamedTuple):
    """Seconds of a process's first load and of its quickest, and its peak memory in KiB."""

    first: float
    quickest: float
    memory: int


def time_load(folder: str, on: bool, loads: int, root: str) -> Timed:
    """One process that loads several times."""
    environ = {
        **os.environ,
        "DISTWATCH": "1" if on else "0",
        "DISTWATCH_DIR": root,
        # A rank's agent starts with torch; elsewhere it starts in the first load, once.
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29999",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", LOAD, folder, str(loads)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    first, quickest, memory = done.stdout.split()
    return Timed(float(first), float(quickest), int(memory))


def main() -> None:
    """Prints medians of both and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--loads", type=int, default=8, help="in each process, after its first")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as root:
        subprocess.run([sys.executable, "-W", "ignore", "-c", MAKE, folder], check=True)
        size = sum(entry.stat().st_size for entry in os.scandir(folder)) / 1e6
        runs: dict[bool, list[Timed]] = {False: [], True: []}
        for _ in range(asked.pairs):
            for on in (False, True):
                runs[on].append(time_load(folder, on, asked.loads, root))
    print(f"{size:.0f} MB, median of {asked.pairs} processes each")
    for name in ("first", "quickest"):
        without, with_ = (
            statistics.median(getattr(run, name) for run in runs[on]) * 1000 for on in (False, True)
        )
        change = (with_ / without - 1) * 100
        print(f"{name:9} without {without:7.1f} ms   with {with_:7.1f} ms   {change:+.2f} %")
    memory = [statistics.median(run.memory for run in runs[on]) / 1024 for on in (False, True)]
    print(f"peak      without {memory[0]:7.1f} MiB  with {memory[1]:7.1f} MiB")


if __name__ == "__main__":
    main()
