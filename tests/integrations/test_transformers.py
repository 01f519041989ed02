"""transformers' from_pretrained, on a real sharded checkpoint made on the spot."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from distwatch.integrations import transformers as integration
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
PHASES = ["config", "files", "shards", "finalize", "generation config"]


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
    in_order = [n for n in names if n in PHASES]
    assert in_order == PHASES
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


class Told:
    """An agent that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.progress: list[tuple[int, int, int | None, str]] = []

    def begin_step(self, name: str, **_: Any) -> int:
        self.steps.append(name)
        return len(self.steps)

    def progress_step(
        self, step: int, done: int, total: int | None = None, label: str = ""
    ) -> None:
        self.progress.append((step, done, total, label))

    def end_step(self, step: int, error: str | None = None) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    agent = Told()
    monkeypatch.setattr(integration, "running_agent", lambda: agent)
    monkeypatch.setattr(integration, "_loads", [])
    return agent


def in_a_thread(function: Any, *args: Any) -> None:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def test_a_file_that_is_opened_again_is_not_one_more(told: Told) -> None:
    """4.57 opens every file up to three times, as (path, …) of load_shard_file among them."""
    integration.FromPretrained().before((object, "model"), {})
    integration.Phase("shards").before((None, {}, ["/a", "/b"]), {})
    for argument in ("/a", "/b", ("/a", "more"), "/b"):
        integration.Shard().before((argument,), {})
    assert told.progress == [(2, 1, 2, "a"), (2, 2, 2, "b"), (2, 1, 2, "a"), (2, 2, 2, "b")]


def test_worker_threads_tell_of_the_load_that_started_them(told: Told) -> None:
    integration.FromPretrained().before((object, "mine"), {})
    integration.Phase("shards").before((["/a"],), {})
    in_a_thread(integration.Shard().before, ("/a",), {})
    assert told.progress == [(2, 1, 1, "a")]
    in_a_thread(integration.Parameter().after, None, None, None)
    assert told.steps == ["from_pretrained", "shards"], "a step of a worker has no parent"


def test_loads_of_two_threads_are_kept_apart(told: Told) -> None:
    integration.FromPretrained().before((object, "mine"), {})
    integration.Phase("shards").before((["/a", "/b"],), {})
    in_a_thread(integration.FromPretrained().before, (object, "theirs"), {})
    integration.Shard().before(("/a",), {})
    assert told.progress == [(2, 1, 2, "a")]
