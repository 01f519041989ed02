"""SGLang's and neuronx-distributed's parallel state, on doubles: real ranks, real groups of gloo.

The real SGLang is run by `make test-sglang`, and a source tree of neuronx-distributed by
`tests/integrations/test_neuron_source.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.ranks import DEADLINES, JOBS, PATIENT, REPOSITORY, Job, launch_ranks
from tests.support.verdicts import assert_healthy, assert_verdict

DOUBLES = REPOSITORY / "tests" / "doubles"
FOLDERS = {
    "sglang 0.5.9": "sglang_with_sizes",
    "sglang 0.5.23": "sglang_without_sizes",
    "neuron": "neuronx",
}


def double(which: str, **more: str) -> dict[str, str]:
    """The environment in which that double is what gets imported."""
    folder = FOLDERS.get(which, FOLDERS["neuron"])
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, JOBS, DOUBLES / folder))),
        "TEST_FRAMEWORK": which.split()[0],
        "DISTWATCH_DEADLINES": DEADLINES,
        "NXD_CPU_MODE": "1",
        "TEST_NXD": which.partition(" ")[2] or "0.18",
        **more,
    }


def sizes(**asked: int) -> str:
    return json.dumps(asked)


def said(job: Job, when: str, rank: int) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((job.work / f"{when}-{rank}.json").read_text())
    return read


INITIALIZED: list[tuple[str, Mapping[str, int], dict[str, list[list[int]]]]] = [
    (
        "sglang 0.5.9",
        {"tensor": 2, "pipeline": 2},
        {"tp": [[0, 1], [2, 3]], "pp": [[0, 2], [1, 3]], "attn_tp": [[0, 1], [2, 3]]},
    ),
    (
        "sglang 0.5.23",
        {"tensor": 4, "context": 2, "expert": 2},
        {"tp": [[0, 1, 2, 3]], "attn_cp": [[0, 2], [1, 3]], "moe_ep": [[0, 2], [1, 3]]},
    ),
    (
        "neuron 0.18",
        {"tensor": 2, "context": 2},
        {"tp": [[0, 1], [2, 3]], "cp": [[0, 2], [1, 3]]},
    ),
    (
        "neuron 0.10",
        {"tensor": 2, "expert": 2},
        {"tp": [[0, 1], [2, 3]], "ep": [[0, 2], [1, 3]], "dp": [[0, 2], [1, 3]]},
    ),
]


@pytest.mark.parametrize(("which", "asked", "axes"), INITIALIZED)
def test_initialize_builds_reads_back_takes_down_and_builds_again(
    which: str, asked: Mapping[str, int], axes: dict[str, list[list[int]]]
) -> None:
    env = double(which, TEST_SIZES=sizes(**asked))
    with launch_ranks("parallel_states", 4, env=env, args=["initialize"]) as job:
        job.wait_step("gate again", range(4))
        for axis, groups in axes.items():
            for rank in range(4):
                mine = next(group for group in groups if rank in group)
                assert said(job, "first", rank)["groups"][axis] == mine, (axis, rank)
        held = job.state().processes.values()
        layouts = {p.global_rank: p.layouts[which.split()[0]] for p in held if p.layouts}
        assert set(layouts) == set(range(4))
        assert all(layout.stack for layout in layouts.values())
        assert_healthy(diagnose(job.state()))
        for rank in range(4):
            job.open_gate("again", rank)
        job.wait_step("gate end", range(4))
        assert said(job, "second", 0)["groups"]["tp"] == [0, 1, 2, 3]
        assert_healthy(job.judged_blocking())


@pytest.mark.parametrize("which", ["sglang 0.5.9", "sglang 0.5.23"])
def test_a_runner_takes_the_world_that_holds_and_refuses_other_sizes(which: str) -> None:
    with launch_ranks(
        "parallel_states", 2, env=double(which, DISTWATCH_DEADLINES=PATIENT), args=["runner"]
    ) as job:
        job.wait_step("gate end", {0, 1})
        for rank in (0, 1):
            found = said(job, "runner", rank)
            assert (found["tp_rank"], found["requests"], found["closed"]) == (rank, 16, False)
            assert found["summed"] == [2.0, 2.0], "in a world that it forms, and in one that holds"
            held, asked = found["refused"]
            assert held.endswith("sglang tp=2, timeout 60 s")
            assert asked.endswith("sglang pp=2, timeout 60 s")
        assert_healthy(diagnose(job.state()))


def test_a_runner_in_sglangs_own_environment_checks_its_sizes_before_it_publishes_anything() -> (
    None
):
    env = double("sglang 0.5.23", DISTWATCH_DEADLINES=PATIENT)
    with launch_ranks("parallel_states", 2, env=env, args=["runner_in_own_environment"]) as job:
        job.wait_step("forward", {0, 1})
        refused = "tensor 1 × pipeline 1 are 1 ranks, and the world has 2"
        assert job.output().count(refused) == 2, "the same words on every rank"
        steps = [s for p in job.state().processes.values() for s in p.steps.values()]
        loads = sorted(s.deadline_s for s in steps if s.name == "ModelRunner")
        assert loads == [30.0] * 2 + [40.0] * 10 + [100.0] * 2, "the first call had none"
        assert {s.deadline_s for s in steps if s.name == "framework groups"} == {50.0}
        assert_healthy(job.judged_blocking())


def test_replicas_have_groups_of_their_own_in_one_world() -> None:
    for which in ("sglang 0.5.9", "sglang 0.5.23"):
        env = double(which, DISTWATCH_DEADLINES=PATIENT)
        with launch_ranks("parallel_states", 4, env=env, args=["replicas"]) as job:
            job.wait_step("gate end", range(4))
            for rank in range(4):
                found = said(job, "replicas", rank)
                first = rank // 2 * 2
                assert found["tp"] == found["world"] == [first, first + 1]
                assert found["pp"] == [rank]
                assert found["summed"] == 2.0 * first + 1
                assert (found["tp_rank"], found["again"]) == (rank % 2, True)
                assert "pass replicas=2 for 2 instances of 2 ranks each" in found["refused"]
            assert_healthy(diagnose(job.state()))


def test_the_first_trainers_arguments_are_taken_or_answered() -> None:
    env = double("sglang 0.5.23", DISTWATCH_DEADLINES=PATIENT)
    with launch_ranks("parallel_states", 1, env=env, args=["founding_arguments"]) as job:
        job.wait_step("built", {0})
        found = said(job, "arguments", 0)
        assert found["tokens"] == 2 * 4 * 32, "both sides of a batch, whatever the device"
        assert json.loads(found["override"]) == {"num_hidden_layers": 2}
        assert "ServerArgs have no enable_nan_detection: check the logits" in job.output()


def test_sizes_that_a_version_does_not_have_are_refused_before_any_group() -> None:
    for which, asked in (("neuron 0.5", {"expert": 2}), ("neuron 0.10", {"context": 2})):
        env = double(which, TEST_SIZES=sizes(**asked))
        with launch_ranks("parallel_states", 2, env=env, args=["without_runtime"]) as job:
            assert job.wait_ended() == [1, 1]
            assert "PlanInvalid" in job.output()


def test_neuron_on_gloo_needs_its_own_switch() -> None:
    env = double("neuron 0.18", NXD_CPU_MODE="0", TEST_SIZES=sizes(tensor=2))
    with launch_ranks("parallel_states", 2, env=env, args=["without_runtime"]) as job:
        assert job.wait_ended() == [1, 1]
        assert "set NXD_CPU_MODE=1" in job.output()


def test_initialized_by_itself_it_is_seen_with_its_axes() -> None:
    env = double("sglang 0.5.9", TEST_SIZES=json.dumps({"tensor_model_parallel_size": 2}))
    with launch_ranks("parallel_states", 2, env=env, args=["by_itself"]) as job:
        job.wait_step("gate end", {0, 1})
        process = next(p for p in job.state().processes.values() if p.global_rank == 1)
        held = process.layouts["sglang"]
        assert held.sizes["tp"] == 2
        assert held.site is not None
        assert held.site.function == "by_itself"
        named = {group.pg_desc: group.axis for group in process.groups.values()}
        assert named["tp:device"] == "tp"
        assert_healthy(diagnose(job.state()))


def test_sglang_initialized_twice_shows_the_first_call() -> None:
    env = double("sglang 0.5.9", TEST_SIZES=json.dumps({"tensor_model_parallel_size": 2}))
    with launch_ranks("parallel_states", 2, env=env, args=["twice"]) as job:
        job.wait_verdict(
            "group.already_initialized", {0, 1}, mentions=("sglang", "first call", "in twice")
        )


def test_neuron_initialized_twice_is_warned_of_since_it_does_not_refuse() -> None:
    env = double("neuron 0.18", TEST_SIZES=json.dumps({"tensor_model_parallel_size": 2}))
    with launch_ranks("parallel_states", 2, env=env, args=["twice"]) as job:
        job.wait_step("gate end", {0, 1})

        def warned(state: RunState) -> bool:
            return any(finding.culprit_ranks == (0, 1) for finding in diagnose(state))

        finding = assert_verdict(
            diagnose(job.wait_state(warned)),
            code="group.already_initialized",
            culprits={0, 1},
            root=False,
            mentions=("a second time", "in twice"),
        )
        assert finding.severity == "warning"


@pytest.mark.parametrize("which", ["neuron 0.5", "neuron 0.18", "sglang 0.5.23"])
def test_an_assert_without_words_is_explained(which: str) -> None:
    with launch_ranks("parallel_states", 2, env=double(which), args=["too_early"]) as job:
        finding = job.wait_verdict("group.not_initialized", {0, 1}, mentions=("torch.distributed",))
        assert f'framework="{which.split()[0]}"' in finding.advice


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("neuron 0.18", "has to be initialized in a distributed env"),
        ("sglang 0.5.9", "tensor model parallel group is not initialized"),
        ("sglang 0.5.23", "has not been written in this process"),
    ],
)
def test_a_layer_built_before_the_parallel_state(which: str, words: str) -> None:
    with launch_ranks("parallel_states", 1, env=double(which), args=["layer_too_early"]) as job:
        finding = job.wait_verdict("group.not_initialized", {0}, mentions=(words,))
        assert f'distwatch.initialize(framework="{which.split()[0]}"' in finding.advice


def test_key_and_value_heads_against_tensors_size() -> None:
    env = double("neuron 0.18", TEST_SIZES=sizes(tensor=2))
    with launch_ranks("parallel_states", 2, env=env, args=["heads"]) as job:
        finding = job.wait_verdict(
            "group.size_invalid", {0, 1}, mentions=("key and value heads", "tensor group of 2")
        )
        assert "kv_size_multiplier" in finding.advice


@pytest.mark.parametrize(
    ("which", "asked", "words"),
    [
        ("sglang 0.5.23", {"tensor": 3}, "tensor 3 × pipeline 1 are 3 ranks"),
        ("sglang 0.5.23", {"tensor": 2, "expert": 4}, "expert 4 does not divide tensor 2"),
        ("neuron 0.18", {"tensor": 3}, "cannot be divided by tensor 3"),
    ],
)
def test_sizes_that_do_not_fit_the_world(which: str, asked: Mapping[str, int], words: str) -> None:
    env = double(which, TEST_SIZES=sizes(**asked))
    with launch_ranks("parallel_states", 2, env=env, args=["without_runtime"]) as job:
        job.wait_verdict("group.size_invalid", {0, 1}, mentions=(words,))


def test_a_framework_that_is_not_installed() -> None:
    env = double("neuron 0.18", PYTHONPATH=os.pathsep.join(map(str, (REPOSITORY, JOBS))))
    with launch_ranks("parallel_states", 1, env=env, args=["without_runtime"]) as job:
        finding = job.wait_verdict("rendezvous.backend_unavailable", {0})
        assert "pip.repos.neuron.amazonaws.com" in finding.advice


def test_a_plan_is_compared_with_what_the_job_holds() -> None:
    env = double("sglang 0.5.23", TEST_SIZES=sizes(tensor=2, pipeline=2))
    with launch_ranks("parallel_states", 4, env=env, args=["initialize"]) as job:
        job.wait_step("gate again", range(4))
        plan = job.work / "plan.yaml"
        for tensor, pipeline, fits in ((2, 2, True), (4, 1, False)):
            plan.write_text(
                f"rollout: {{rollout_backend: sglang, tp_size: {tensor}, pp_size: {pipeline}}}"
            )
            command = [sys.executable, "-m", "distwatch", "check", str(plan), "-o", "json"]
            checked = subprocess.run(
                [*command, "--world-size", "4", "--against", job.folder.path],
                capture_output=True,
                check=False,
                text=True,
            )
            layouts = json.loads(checked.stdout)["layouts"]
            codes = [finding["code"] for finding in layouts[0]["findings"]]
            assert codes == ([] if fits else ["group.layout_disagrees"]), checked.stderr
