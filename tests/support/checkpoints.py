"""Checkpoints made on the spot by the real transformers, and the older one that reads them, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRANSFORMERS_4 = Path(sys.prefix) / "transformers4"
"""transformers 4.57 and what it needs, as `make` installs it beside the environment."""
OLD_TRANSFORMERS = "DISTWATCH_OLD_TRANSFORMERS"
"""Opt-in: a folder with transformers 4.51 to 4.56 and what it needs
(`pip install --no-deps --target FOLDER transformers==4.56.2 huggingface_hub==0.36.2 tokenizers==0.22.2`
and what tests/transformers4.txt has besides): those still read offloaded weights twice."""
_MAKE = """
import sys, warnings
warnings.simplefilter("ignore")
from transformers import LlamaConfig, LlamaForCausalLM
folder, layers, hidden, tied, shard_kb = sys.argv[1], *map(int, sys.argv[2:])
config = LlamaConfig(vocab_size=256, hidden_size=hidden, intermediate_size=2 * hidden,
                     num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
                     tie_word_embeddings=bool(tied))
LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=f"{shard_kb}KB")
"""


def make_checkpoint(
    folder: Path, *, layers: int = 4, hidden: int = 64, tied: bool = False, shard_kb: int = 200
) -> list[str]:
    """A small Llama in shards; the names of its files, in their order."""
    command = [sys.executable, "-c", _MAKE, str(folder)]
    command += [str(number) for number in (layers, hidden, int(tied), shard_kb)]
    environ = {**os.environ, "DISTWATCH": "0", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=90, env=environ)
    return sorted(path.name for path in folder.glob("*.safetensors"))


def environment_of(major: int) -> dict[str, str]:
    """The variables with which a job imports that major version of transformers."""
    if major == 5:
        return {}
    if not TRANSFORMERS_4.is_dir():
        pytest.skip(f"{TRANSFORMERS_4} is not there; `make test` installs it")
    return {"PYTHONPATH": str(TRANSFORMERS_4)}
