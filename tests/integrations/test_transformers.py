"""transformers' from_pretrained, on real sharded checkpoints made on the spot, in both majors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from distwatch.state import events as ev
from distwatch.state.loads import ModuleDevice, Placement
from tests.agent.rings import read_events
from tests.integrations.test_torch import home, ring_of, run
from tests.support.checkpoints import OLD_TRANSFORMERS, environment_of, make_checkpoint
from tests.support.hub import hub, hub_environment

__all__ = ["home"]

PHASES = ["config", "files", "model", "shards", "tie", "generation config"]
LOAD = """
import warnings; warnings.simplefilter("ignore")
from transformers import AutoModelForCausalLM, LlamaForCausalLM
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    assert len(make_checkpoint(folder, layers=3, tied=True)) == 3
    return folder


def events_of(home: Path, kind: type) -> list[Any]:
    return [event for event in read_events(ring_of(home)) if isinstance(event, kind)]


def names_of(home: Path) -> list[str]:
    return [step.name for step in events_of(home, ev.StepStarted)]


def placement_in(home: Path) -> Placement:
    (placed,) = events_of(home, ev.ModelPlaced)
    return placed.placement


@pytest.mark.parametrize("major", [5, 4])
@pytest.mark.parametrize("call", ["AutoModelForCausalLM", "LlamaForCausalLM"])
def test_a_load_is_told_phase_by_phase(home: Path, checkpoint: Path, call: str, major: int) -> None:
    source = LOAD + f"print(type({call}.from_pretrained({str(checkpoint)!r})).__name__)"
    done = run(home, source, **environment_of(major))
    assert done.stdout == "LlamaForCausalLM\n", done.stderr
    steps = events_of(home, ev.StepStarted)
    assert [step.name for step in steps].count("from_pretrained") == 1, "one load is one step"
    assert steps[0].label == str(checkpoint)
    assert list(dict.fromkeys(n for n in names_of(home) if n in PHASES)) == PHASES
    shards = next(step for step in steps if step.name == "shards")
    assert shards.total == 3
    told = [e for e in events_of(home, ev.StepProgressed) if e.step == shards.step]
    files = sorted(path.name for path in checkpoint.glob("*.safetensors"))
    assert {(e.done, e.label) for e in told} == {(n + 1, name) for n, name in enumerate(files)}
    assert told[-1].parameters == told[-1].parameters_total == 29
    assert told[-1].bytes == told[-1].bytes_total
    ended = {e.step for e in events_of(home, ev.StepEnded)}
    assert ended == {step.step for step in steps}, "a step was left open"
    assert not events_of(home, ev.HookFailed)
    placement = placement_in(home)
    assert placement.modules == (ModuleDevice(module="", device="cpu", bytes=told[-1].bytes),)
    assert (placement.tied, placement.generation) == (1, "loaded")
    assert placement.dtypes == {"float32": told[-1].bytes}


@pytest.mark.parametrize("major", [5, 4])
def test_weights_in_a_pickle_file_are_told_too(
    home: Path, checkpoint: Path, tmp_path: Path, major: int
) -> None:
    source = LOAD + (
        "import torch, shutil, os\n"
        f"model = LlamaForCausalLM.from_pretrained({str(checkpoint)!r})\n"
        f"folder = {str(tmp_path / 'pickled')!r}; os.makedirs(folder)\n"
        "torch.save(model.state_dict(), f'{folder}/pytorch_model.bin')\n"
        f"shutil.copy({str(checkpoint / 'config.json')!r}, folder)\n"
        "LlamaForCausalLM.from_pretrained(folder)\n"
    )
    done = run(home, source, **environment_of(major))
    assert done.returncode == 0, done.stderr
    told = [e for e in events_of(home, ev.StepProgressed) if e.label == "pytorch_model.bin"]
    assert (told[0].done, told[0].total) == (1, 1)
    assert events_of(home, ev.ModelPlaced)[-1].placement.generation == "default"


@pytest.mark.parametrize("major", [5, 4])
def test_offloaded_parameters_are_not_leaked_ones(
    home: Path, checkpoint: Path, tmp_path: Path, major: int
) -> None:
    source = LOAD + (
        f"model = AutoModelForCausalLM.from_pretrained({str(checkpoint)!r}, device_map='auto', "
        f"max_memory={{'cpu': '400KB'}}, offload_folder={str(tmp_path)!r})\n"
    )
    done = run(home, source, **environment_of(major))
    assert done.returncode == 0, done.stderr
    placement = placement_in(home)
    assert placement.leaked_count == 0
    assert placement.bytes_on("disk") > 0
    assert {entry.device for entry in placement.modules} == {"cpu", "disk"}
    assert placement.offload_places == (str(checkpoint),), "safetensors stay where they are"
    assert "dispatch" in names_of(home)
    (planned,) = events_of(home, ev.LoadPlanned)
    assert planned.arguments.spreads
    assert planned.arguments.device_map == "auto"


@pytest.mark.parametrize("major", [5, 4])
def test_a_download_is_told_with_its_bytes(
    home: Path, checkpoint: Path, tmp_path: Path, major: int
) -> None:
    with hub(checkpoint) as here:
        source = LOAD + "AutoModelForCausalLM.from_pretrained('org/model')\n"
        variables = {**environment_of(major), **hub_environment(here.endpoint, tmp_path)}
        done = run(home, source, **variables)
    assert done.returncode == 0, done.stderr
    steps = {step.step: step.name for step in events_of(home, ev.StepStarted)}
    told = [e for e in events_of(home, ev.StepProgressed) if steps[e.step] == "files"]
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert told[-1].bytes >= size
    assert "model-00003-of-00003.safetensors" in {e.label for e in told}
    assert not events_of(home, ev.HookFailed)


def test_a_failing_load_ends_its_steps_with_the_error(home: Path) -> None:
    done = run(home, LOAD + "AutoModelForCausalLM.from_pretrained('/no/such/folder/x')")
    assert done.returncode == 1
    ended = events_of(home, ev.StepEnded)
    assert ended[-1].error is not None
    assert {e.step for e in ended} == {s.step for s in events_of(home, ev.StepStarted)}


def test_accelerate_loads_and_reads_back_what_it_has_written(home: Path, checkpoint: Path) -> None:
    source = LOAD + (
        "from accelerate import init_empty_weights, load_checkpoint_and_dispatch\n"
        "from transformers import AutoConfig\n"
        f"config = AutoConfig.from_pretrained({str(checkpoint)!r})\n"
        "with init_empty_weights(): model = AutoModelForCausalLM.from_config(config)\n"
        "model.tie_weights()\n"
        f"load_checkpoint_and_dispatch(model, {str(checkpoint)!r}, device_map={{'': 'cpu'}}, "
        "offload_state_dict=True)\n"
    )
    done = run(home, source)
    assert done.returncode == 0, done.stderr
    names = [n for n in names_of(home) if n in ("shards", "offload re-read", "dispatch")]
    assert names == ["shards", "offload re-read", "dispatch"]
    reread = next(s for s in events_of(home, ev.StepStarted) if s.name == "offload re-read")
    told = [e for e in events_of(home, ev.StepProgressed) if e.step == reread.step]
    assert (told[-1].done, told[-1].total) == (29, 29)
    assert told[-1].parameters == 29
    assert placement_in(home).leaked_count == 0


@pytest.mark.skipif(OLD_TRANSFORMERS not in os.environ, reason=f"{OLD_TRANSFORMERS} is not set")
def test_transformers_to_4_56_reads_offloaded_weights_twice(home: Path, checkpoint: Path) -> None:
    source = (
        "import distwatch\n"
        f"model = distwatch.load({str(checkpoint)!r}, device_map={{'': 'cpu'}}, offload_state_dict=True)\n"
        "import transformers; print(transformers.__version__)\n"
    )
    done = run(home, source, PYTHONPATH=os.environ[OLD_TRANSFORMERS])
    assert done.stdout.startswith("4.5"), done.stderr
    assert "without a progress bar" in done.stderr, "it was not said before the load"
    names = list(dict.fromkeys(names_of(home)))
    assert names.index("offload re-read") > names.index("shards")
    reread = next(s for s in events_of(home, ev.StepStarted) if s.name == "offload re-read")
    told = [e for e in events_of(home, ev.StepProgressed) if e.step == reread.step]
    assert (told[-1].done, told[-1].total) == (reread.total, reread.total)
    assert placement_in(home).leaked_count == 0


def test_a_hook_that_is_gone_leaves_its_parameters_leaked(
    home: Path, checkpoint: Path, tmp_path: Path
) -> None:
    source = LOAD + (
        "import msgspec\n"
        "from accelerate.hooks import remove_hook_from_module\n"
        "from distwatch.integrations.placements import placement_of\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(checkpoint)!r}, device_map='auto', "
        f"max_memory={{'cpu': '400KB'}}, offload_folder={str(tmp_path)!r})\n"
        "for module in model.model.layers[2].modules(): module.__dict__.pop('_hf_hook', None)\n"
        "print(msgspec.json.encode(placement_of(model)).decode())\n"
    )
    done = run(home, source)
    assert done.returncode == 0, done.stderr
    import msgspec

    placement = msgspec.json.decode(done.stdout, type=Placement)
    assert placement.leaked_count == 9
    assert all(name.startswith("model.layers.2.") for name in placement.leaked)


def test_an_adapter_is_a_load_of_its_own(home: Path, checkpoint: Path, tmp_path: Path) -> None:
    source = LOAD + (
        "from peft import LoraConfig, PeftModel, get_peft_model\n"
        f"model = LlamaForCausalLM.from_pretrained({str(checkpoint)!r})\n"
        f"get_peft_model(model, LoraConfig(r=2)).save_pretrained({str(tmp_path)!r})\n"
        f"base = LlamaForCausalLM.from_pretrained({str(checkpoint)!r})\n"
        f"PeftModel.from_pretrained(base, {str(tmp_path)!r})\n"
    )
    done = run(home, source)
    assert done.returncode == 0, done.stderr
    labels = [s.label for s in events_of(home, ev.StepStarted) if s.name == "from_pretrained"]
    assert labels == [str(checkpoint), str(checkpoint), str(tmp_path)]
    assert {"adapter", "adapter weights", "adapter placing"} <= set(names_of(home))


def test_distwatch_load_advises_loads_and_tries(home: Path, checkpoint: Path) -> None:
    source = (
        "import logging, distwatch; logging.basicConfig(format='%(message)s')\n"
        f"model = distwatch.load({str(checkpoint)!r}, deadline=77, smoke_test=True, "
        "max_memory={'cpu': '900000GB'}, device_map='auto')\n"
        "print(type(model).__name__)\n"
    )
    done = run(home, source, RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    assert done.stdout == "LlamaForCausalLM\n", done.stderr
    assert "load.memory_exceeds: 2 × max_memory['cpu']" in done.stderr
    steps = events_of(home, ev.StepStarted)
    assert (steps[0].name, steps[0].deadline_s) == ("distwatch.load", 77.0)
    assert "from_pretrained" not in names_of(home), "it is one load"
    tried = next(s for s in steps if s.name == "smoke test")
    told = [e.label for e in events_of(home, ev.StepProgressed) if e.step == tried.step]
    assert told == [f"forward of {n} tokens" for n in (1, 2, 3, 4)]
    (raised,) = events_of(home, ev.FindingRaised)
    assert raised.finding.code == "load.memory_exceeds"
    assert len(events_of(home, ev.ModelPlaced)) == 1


def test_distwatch_load_names_the_folder_that_was_meant(home: Path, checkpoint: Path) -> None:
    mistyped = f"{checkpoint}x"
    source = (
        "import logging, distwatch; logging.basicConfig(format='%(message)s')\n"
        f"try: distwatch.load({mistyped!r})\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = run(home, source)
    assert done.stdout.strip(), "transformers' own error is passed on"
    assert f"there is no {mistyped} on this machine" in done.stderr
    assert f"Did you mean {checkpoint}?" in done.stderr


def test_a_look_that_fails_is_not_what_the_load_fails_by(home: Path, checkpoint: Path) -> None:
    source = (
        "import distwatch, distwatch.loading as loading\n"
        "def fail(*_): raise RuntimeError('ours')\n"
        "loading.placement_of = fail\n"
        f"print(type(distwatch.load({str(checkpoint)!r})).__name__)\n"
    )
    done = run(home, source)
    assert done.stdout == "LlamaForCausalLM\n", done.stderr
    (failed,) = events_of(home, ev.HookFailed)
    assert "ours" in failed.error
    assert {e.step for e in events_of(home, ev.StepEnded)} >= {1}, "the load was left open"


def test_distwatch_load_is_from_pretrained_where_distwatch_is_off(
    home: Path, checkpoint: Path
) -> None:
    source = (
        f"import distwatch; model, info = distwatch.load({str(checkpoint)!r}, "
        "output_loading_info=True, model_class='LlamaForCausalLM', smoke_test=True)\n"
        "print(type(model).__name__, sorted(info['missing_keys']))\n"
    )
    done = run(home, source, DISTWATCH="0")
    assert done.stdout == "LlamaForCausalLM []\n", done.stderr
    assert not (home / "job").exists()


@pytest.mark.parametrize("major", [5, 4])
def test_offline_a_checkpoint_without_generation_config_is_nothing_to_tell(
    home: Path, checkpoint: Path, tmp_path: Path, major: int
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "generation_config.json").unlink()
    with hub(folder) as here:
        variables = {**environment_of(major), **hub_environment(here.endpoint, tmp_path)}
        fill = "from huggingface_hub import snapshot_download; snapshot_download('org/model')"
        assert run(home, fill, **variables).returncode == 0
    source = LOAD + "AutoModelForCausalLM.from_pretrained('org/model')"
    done = run(home, source, **{**variables, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert placement_in(home).generation == "default"


def test_a_snapshot_of_the_cache_is_looked_at_before_the_load(
    home: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Its name is a commit, which nobody can tell from a secret: it is hidden in the journal."""
    snapshot = tmp_path / "snapshots" / ("0a" * 20)
    shutil.copytree(checkpoint, snapshot)
    source = (
        "import distwatch.loading as loading\n"
        "seen = []; advise = loading.load_advice\n"
        "loading.load_advice = lambda *args: seen.append(args[1].checkpoint_bytes) or advise(*args)\n"
        f"loading.load({str(snapshot)!r}); print(seen[0] > 0)\n"
    )
    done = run(home, source)
    assert done.stdout == "True\n", done.stderr
