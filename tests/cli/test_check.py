"""`distwatch check`: plans from files, from options and from stdin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.preflight.accelerators import host_gpus
from tests.cli.runs import distwatch
from tests.support.without_torch import needs_torch

TWO_LAYOUTS = """
actor:
  megatron: {tensor_model_parallel_size: 2, pipeline_model_parallel_size: 2}
rollout: {tensor_parallel_size: 3, gpu_memory_utilization: 0.5, model_path: /not/here}
cluster: {num_nodes: 1, num_gpus_per_node: 8}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(TWO_LAYOUTS)
    return path


@needs_torch
def test_options_alone_are_a_plan() -> None:
    done = distwatch(
        "check", "--world-size", "8", "--tensor", "2", "--pipeline", "2", "--backend", "gloo"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 ranks, gloo, tensor 2, pipeline 2" in done.stdout
    assert "pipeline  2      4       [0,4] [1,5] [2,6] [3,7]" in done.stdout
    assert done.stdout.endswith("sound\n")


def test_each_layout_of_a_file_is_checked_by_itself(plan: Path) -> None:
    done = distwatch("check", str(plan))
    assert done.returncode == 3
    actor, rollout = done.stdout.split("\n\n")
    assert actor.startswith("actor.megatron\n")
    assert "sound" in actor
    assert "a world of 8 cannot be divided by tensor 3" in rollout
    assert "do: It would work with tensor 1, 2, 4 or 8" in rollout
    assert "rollout.model_path=/not/here is not on this machine" in done.stderr


def test_json_holds_groups_and_findings(plan: Path) -> None:
    done = distwatch("check", str(plan), "-o", "json")
    assert (done.returncode, done.stderr) == (3, "")
    document = json.loads(done.stdout)
    assert (document["schema"], document["sound"]) == ("distwatch.check/1", False)
    actor, rollout = document["layouts"]
    axes = {axis["name"]: axis for axis in actor["axes"]}
    assert axes["tensor"]["groups"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert (actor["findings"], rollout["axes"]) == ([], [])
    assert rollout["findings"][0]["code"] == "group.size_invalid"
    assert rollout["notes"]


def test_options_win_over_the_file_in_each_layout(plan: Path) -> None:
    done = distwatch("check", str(plan), "--tensor", "4", "--world-size", "16", "-o", "json")
    assert done.returncode == 0
    layouts = json.loads(done.stdout)["layouts"]
    assert [(one["world_size"], one["plan"]["tensor"]) for one in layouts] == [(16, 4), (16, 4)]


def test_a_size_that_the_file_does_not_tell_may_come_from_an_option(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("world_size: 6\ntensor: ${oc.env:TP}")
    without = distwatch("check", str(path))
    assert without.returncode == 0
    assert "the file alone does not give tensor, so this layout was not checked" in without.stdout
    assert "sound" not in without.stdout
    assert distwatch("check", str(path), "--tensor", "4").returncode == 3
    assert distwatch("check", str(path), "--tensor", "3").returncode == 0


def test_a_plan_from_stdin_as_markdown() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distwatch", "check", "-", "-o", "md"],
        input="tensor: 2\nworld_size: 4\nnodes: 2\nranks_per_node: 4\n",
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "## plan" in done.stdout
    assert "- error: 2 nodes × 4 ranks per node = 8, but world_size is 4" in done.stdout


def test_a_models_heads_against_the_tensor_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_attention_heads": 28, "num_key_value_heads": 4}')
    done = distwatch("check", "--world-size", "8", "--tensor", "8", "--model", str(tmp_path))
    assert done.returncode == 3
    assert "28 attention heads cannot be divided by tensor 8" in done.stdout
    assert "It would work with tensor 1, 2 or 4." in done.stdout
    assert "each is held by 2 ranks" in done.stdout


@needs_torch
def test_nccl_on_a_login_node_is_a_warning_and_in_a_launched_job_an_error() -> None:
    if host_gpus() != 0:
        pytest.skip("this machine has a GPU, or one that cannot be counted")
    for launched, code in (({}, 0), ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, 3)):
        done = distwatch("check", "--world-size", "2", "--backend", "nccl", **launched)
        assert done.returncode == code, done.stdout
        assert "no GPU is visible" in done.stdout


@needs_torch
def test_what_this_machine_lacks() -> None:
    done = distwatch("check", "--world-size", "2", "--backend", "xla")
    assert done.returncode == 3
    assert "torch_xla is not installed" in done.stdout
    # One that is to run on several hosts may be checked on another.
    several = distwatch("check", "--nodes", "2", "--ranks-per-node", "1", "--backend", "xla")
    assert several.returncode == 0
    assert "warning:" in several.stdout


def test_a_huge_world_is_no_burden() -> None:
    done = distwatch("check", "--world-size", "262144", "--tensor", "8", "-o", "json")
    assert done.returncode == 0
    axes = json.loads(done.stdout)["layouts"][0]["axes"]
    assert [(axis["name"], axis["count"]) for axis in axes] == [("tensor", 32_768), ("data", 8)]
    assert len(done.stdout) < 500_000
    beyond = distwatch("check", "--world-size", "100000000", "--tensor", "8")
    assert beyond.returncode == 3
    assert "Give a whole number from 1 to 262144" in beyond.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "there is no plan to check"),
        (("nothing.yaml",), 5, "there is no file nothing.yaml"),
        (("/",), 2, "is a folder"),
        (("--world-size", "0"), 2, "0 is not in the range"),
        (("--world-size", "many"), 2, "many"),
        (("--tensor", "2", "--model", "/not/here"), 2, "/not/here: No such file"),
        (("-",), 2, "stdin is empty"),
        ((sys.executable,), 2, "is not a text file"),
        (("--world-size", "4", "-o", "html"), 2, "html"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = distwatch("check", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(plan: Path) -> None:
    plan.chmod(0)
    assert distwatch("check", str(plan)).returncode == 4


def test_colour_only_where_it_is_asked_for(plan: Path) -> None:
    assert "\x1b" not in distwatch("check", str(plan)).stdout
    assert "\x1b[" in distwatch("check", str(plan), "--color", "always").stdout


def test_text_of_a_file_cannot_steer_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text('"a\\e]0;x\\a": {tp_size: 2, model_path: "/no\\e[2J"}')
    done = distwatch("check", str(path))
    assert "\x1b" not in done.stdout + done.stderr
