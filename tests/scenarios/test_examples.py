"""The examples do what their pages say: they end well, and their failure gets its verdict."""

from __future__ import annotations

import os
import sys

import pytest

from distwatch.state.model import RunState
from tests.cli.runs import distwatch
from tests.support.ranks import PATIENT, REPOSITORY, empty_job, free_port
from tests.support.verdicts import assert_healthy

EXAMPLES = REPOSITORY / "examples"
SYNC = EXAMPLES / "weight_sync"
NEURON = {
    "NXD_CPU_MODE": "1",
    "PYTHONPATH": os.pathsep.join(
        [str(REPOSITORY), str(REPOSITORY / "tests" / "doubles" / "neuronx")]
    ),
}


def torchrun_example(
    *arguments: str, script: str = "weight_sync/sync.py", ranks: int = 3
) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    return [*launcher, f"--master-port={free_port()}", str(EXAMPLES / script), *arguments]


@pytest.mark.parametrize(
    ("script", "arguments", "ranks", "env", "said"),
    [
        ("mezo/train.py", (), 2, {}, "has made 6 steps"),
        ("megatron/layouts.py", ("2,1,1", "1,2,1"), 2, {}, '"pipeline_model_parallel": ['),
        ("neuron/train.py", (), 2, NEURON, ": (2, 4)"),
    ],
    ids=["mezo", "megatron", "neuron"],
)
def test_it_ends_well(
    script: str, arguments: tuple[str, ...], ranks: int, env: dict[str, str], said: str
) -> None:
    with empty_job() as job:
        command = torchrun_example(*arguments, script=script, ranks=ranks)
        job.start(command, {"DISTWATCH_DEADLINES": PATIENT, **env}, "example.log")
        assert job.wait_ended() == [0]
        assert job.output("example.log").count(said) >= ranks
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())


def test_mezo_where_a_rank_leaves_out_a_step() -> None:
    with empty_job() as job:
        command = torchrun_example("--skip", script="mezo/train.py", ranks=2)
        job.start(command, {}, "example.log")
        found = job.wait_verdict("collective.count_uneven", {0, 1})
        assert "only rank 1 takes `if skips and not torch.isfinite(slope):`" in found.summary


def test_megatron_where_a_rank_asks_for_other_sizes() -> None:
    with empty_job() as job:
        command = torchrun_example("--odd", "1", "2,1,1", script="megatron/layouts.py", ranks=2)
        job.start(command, {}, "example.log")
        assert job.wait_ended() == [1]
        found = job.wait_verdict("group.layout_disagrees", {1})
        assert "rank 0 has tp=2; rank 1 has pp=2" in found.summary


def test_neuron_where_a_layer_is_built_first() -> None:
    with empty_job() as job:
        command = torchrun_example("--early", script="neuron/train.py", ranks=2)
        job.start(command, NEURON, "example.log")
        assert job.wait_ended() == [1]
        found = job.wait_verdict("group.not_initialized", {0, 1})
        assert "intra_layer_model parallel group is not initialized" in found.summary
        assert 'distwatch.initialize(framework="neuron"' in found.advice


def test_parts_of_a_model_that_stay_on_disk() -> None:
    with empty_job() as job:
        command = torchrun_example("--train", script="offload/load.py", ranks=2)
        env = {"CHECKPOINT": str(job.work / "llama"), "DISTWATCH_DEADLINES": PATIENT}
        job.start(command, env, "example.log")
        assert job.wait_ended() == [1]

        def is_told(state: RunState) -> bool:
            return any(f.code == "load.offloaded" for f in state.recorded_findings)

        state = job.wait_state(is_told)
        (found,) = [f for f in state.recorded_findings if f.code == "load.offloaded"]
        assert found.culprit_ranks == (0, 1)
        assert "on disk" in found.summary


def test_weights_reach_every_engine() -> None:
    with empty_job() as job:
        job.start(torchrun_example(ranks=4), {"SYNC_PORT": str(free_port())}, "sync.log")
        assert job.wait_ended() == [0]
        assert job.output("sync.log").count("is through with 3 tensors") == 4
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())


@pytest.mark.parametrize(
    ("part", "culprit", "missed", "told"),
    [
        ("gather", 1, "all_gather #2 of trainers", "gather (training)"),
        ("convert", 0, "", "rank 0 in convert (training)"),
        ("broadcast", 0, "", "rank 0 in broadcast (training)"),
        ("load", 2, "broadcast #3 of weight_update", "rank 2 in load (engine)"),
    ],
)
def test_the_part_of_a_weight_sync_that_does_not_end(
    part: str, culprit: int, missed: str, told: str
) -> None:
    with empty_job() as job:
        command = torchrun_example("--stall", part, ranks=4)
        job.start(command, {"SYNC_PORT": str(free_port())}, "sync.log")
        mentions = ("sync.py", "weight sync: ", told)
        found = job.wait_verdict("collective.rank_missing", {culprit}, mentions=mentions)
        assert f"rank {culprit} never entered {missed}" in found.summary


def test_the_plan_shows_the_converters_other_sizes() -> None:
    told = distwatch("check", str(SYNC / "plan.yaml")).stdout
    assert "than actor.model loads them with: tensor 2 and 4" in told
