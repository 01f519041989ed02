"""A framework's groups that do not come: the same error, whoever formed the world and whoever builds them."""

from __future__ import annotations

import pytest

from tests.scenarios.test_parallel_states import double
from tests.support.outcomes import outcomes_of
from tests.support.ranks import PATIENT, launch_ranks
from tests.support.verdicts import assert_healthy

DEADLINE = '{"deadlines": {"framework": 4}}'
MISSING = "group.call_missing"
DOUBLES = {"sglang": "sglang 0.5.9", "neuron": "neuron 0.18"}
FRAMEWORKS = ("mesh", "accelerate", "megatron", "sglang", "neuron")
HOWS = ("fresh", "added", "own", "itself", "again")
PATHS = [(how, framework) for framework in FRAMEWORKS for how in HOWS]
"""Every framework, and every way to build its groups."""


def world_size(framework: str) -> int:
    """A mesh of one axis takes torch's default group, and there is nothing to create."""
    return 4 if framework in ("mesh", "accelerate") else 2


def environment(framework: str, how: str) -> dict[str, str]:
    """`deadlines=` for distwatch's own calls, DISTWATCH_ON_HANG for the framework's."""
    env = {"DISTWATCH_DEADLINES": PATIENT, "TEST_CHOICE": DEADLINE}
    if how == "itself":
        env |= {"DISTWATCH_DEADLINES": "init=100,group=4", "DISTWATCH_ON_HANG": "raise"}
    return double(DOUBLES[framework], **env) if framework in DOUBLES else env


@pytest.mark.parametrize(("how", "framework"), PATHS)
def test_the_rank_that_never_enters_a_group_is_named_with_its_place(
    how: str, framework: str
) -> None:
    with launch_ranks(
        "framework_paths",
        world_size(framework),
        env=environment(framework, how),
        env_of={1: {"TEST_STALLS": "1"}},
        args=[how, framework],
    ) as job:
        job.wait_step("stalled", {1})
        if how == "again":
            refused = next(name for name, rank in job.seen_steps if rank == 0 and "refused" in name)
            held, _, asked = refused.partition(" / ")
            assert "tp=2" in held
            assert "tp=2" not in asked
        told = outcomes_of(job, {0})[0]
        assert (told["type"], told["missing"]) == ("InitTimeout", [1])
        assert 0 in told["arrived"]
        assert (told["code"], told["culprits"]) == (MISSING, [1])
        assert "within 4 s" in told["message"]
        assert "stall" in told["places"]["1"]
        assert f"pid {job.pid_of(1)}" in told["places"]["1"]
        job.wait_verdict(MISSING, {1})


@pytest.mark.parametrize(
    ("how", "framework"), [("own", "mesh"), ("added", "megatron"), ("fresh", "neuron")]
)
def test_sizes_that_differ_are_refused_on_every_rank_before_any_group_is_built(
    how: str, framework: str
) -> None:
    """Each rank asks distwatch for another layout."""
    each = {1: {"TEST_CHOICE": '{"tensor": 1}'}}
    env = {**environment(framework, how), "TEST_CHOICE": "{}"}
    with launch_ranks("framework_paths", 2, env=env, env_of=each, args=[how, framework]) as job:
        for told in outcomes_of(job, {0, 1}).values():
            assert (told["type"], told["code"]) == ("InitFailed", "group.layout_disagrees")
            assert "rank 0 has tp=2; rank 1 has dp=2" in told["message"]
        held = job.state().processes.values()
        assert not any(process.meshes or process.layouts for process in held)


def test_a_rank_that_does_not_come_to_the_addition_is_named_with_its_place() -> None:
    """It holds the world, and is elsewhere."""
    env = {"DISTWATCH_DEADLINES": PATIENT, "TEST_CHOICE": '{"deadlines": {"arrival": 4}}'}
    env = double(DOUBLES["sglang"], **env)
    each = {1: {"TEST_STAYS": "1"}}
    with launch_ranks("framework_paths", 2, env=env, env_of=each, args=["added", "sglang"]) as job:
        job.wait_step("elsewhere", {1})
        told = outcomes_of(job, {0})[0]
        assert (told["type"], told["missing"], told["arrived"]) == ("InitTimeout", [1], [0])
        assert "framework arrival did not finish within 4 s" in told["message"]
        assert "stay_elsewhere" in told["places"]["1"]
        assert told["culprits"] == [1]


@pytest.mark.parametrize("how", ["added", "own"])
def test_a_mesh_is_added_to_a_world_that_exists(how: str) -> None:
    env = {"DISTWATCH_DEADLINES": PATIENT, "TEST_CHOICE": "{}"}
    with launch_ranks("framework_paths", 4, env=env, args=[how, "mesh"]) as job:
        job.wait_step("built", range(4))
        assert_healthy(job.judged_blocking())
