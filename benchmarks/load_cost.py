"""What the hooks cost `from_pretrained`: a 140 MB Llama in 8 shards that the page cache serves.

Loads in one process, one a block, with and without the hooks. Goal: under 1 %.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile

from paired_blocks import hooked_or_not, launch, median_of, pair_of, report, stay_on_one_core

MAKE = """
import sys
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=8000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
                     num_attention_heads=8, num_key_value_heads=8)
LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size="20MB")
"""


def measure(folder: str, pairs: int) -> None:
    """Runs in a rank of its own, whose agent started with torch."""
    import torch
    from transformers import LlamaForCausalLM

    from distwatch.agent import core
    from distwatch.integrations import registry

    stay_on_one_core(0)
    torch.set_num_threads(1)

    def load() -> None:
        # Tensors are mapped, not read, where the dtype stays: another one makes the load read all.
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    load()
    assert core.current() is not None
    print({name: one.status for name, one in registry.statuses().items()})
    block = hooked_or_not(lambda: median_of(load, 1), lambda: None)
    report("from_pretrained", [pair_of(block, number) for number in range(pairs)])
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def main() -> None:
    """Makes the model and launches itself, or measures where it has been launched."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--inside", metavar="FOLDER", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        import distwatch.auto  # noqa: F401

        measure(asked.inside, asked.pairs)
        return
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-W", "ignore", "-c", MAKE, folder], check=True)
        sys.exit(launch(__file__, 1, [folder, "--pairs", str(asked.pairs)]))


if __name__ == "__main__":
    main()
