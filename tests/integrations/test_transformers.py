"""transformers' from_pretrained, on a real sharded checkpoint made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.state import events as ev
from tests.agent.rings import read_events
from tests.integrations.test_torch import home, ring_of, run

__all__ = ["home"]

MAKE = """
import warnings
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                     num_attention_heads=4, num_key_value_heads=4)
LlamaForCausalLM(config).save_pretrained(FOLDER, max_shard_size="40KB")
"""


@pytest.mark.parametrize("call", ["AutoModelForCausalLM", "LlamaForCausalLM"])
def test_a_load_is_told_phase_by_phase(home: Path, tmp_path: Path, call: str) -> None:
    folder = tmp_path / "checkpoint"
    source = MAKE.replace("FOLDER", repr(str(folder)))
    done = run(home, source + f"print(type({call}.from_pretrained({str(folder)!r})).__name__)")
    assert done.stdout == "LlamaForCausalLM\n", done.stderr
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 1
    events = read_events(ring_of(home))
    steps = [e for e in events if isinstance(e, ev.StepStarted)]
    names = [step.name for step in steps]
    assert names[0] == "from_pretrained"
    assert steps[0].label == str(folder)
    in_order = [n for n in names if n in ("files", "shards", "finalize", "generation config")]
    assert in_order == ["files", "shards", "finalize", "generation config"]
    shards = next(step for step in steps if step.name == "shards")
    told = [e for e in events if isinstance(e, ev.StepProgressed) and e.step == shards.step]
    assert [(e.done, e.total, e.label) for e in told] == [
        (n + 1, len(files), name) for n, name in enumerate(files)
    ]
    ended = {e.step for e in events if isinstance(e, ev.StepEnded)}
    assert ended == {step.step for step in steps}, "a step was left open"


def test_a_failing_load_ends_its_steps_with_the_error(home: Path, tmp_path: Path) -> None:
    done = run(
        home,
        MAKE.partition("config =")[0] + "AutoModelForCausalLM.from_pretrained('/no/such/folder/x')",
    )
    assert done.returncode == 1
    events = read_events(ring_of(home))
    ended = [e for e in events if isinstance(e, ev.StepEnded)]
    assert ended
    assert ended[-1].error is not None
