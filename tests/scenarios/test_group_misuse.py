"""Process groups and meshes that ranks build differently, too early, twice, or are not in."""

from __future__ import annotations

import json

import pytest

from distwatch.diagnosis.facts.group_views import groups_of
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.ranks import DEADLINES, free_port, launch_ranks
from tests.support.verdicts import assert_healthy, assert_verdict

QUICK = {"DISTWATCH_DEADLINES": DEADLINES}


def choices(*each: object) -> dict[int, dict[str, str]]:
    return {rank: {"TEST_CHOICE": json.dumps(choice)} for rank, choice in enumerate(each)}


def test_members_that_disagree() -> None:
    each = choices([[0, 1]], [[0, 1, 2]], [[0, 1, 2]])
    with launch_ranks("forms", 3, env=QUICK, env_of=each, args=["build_group"]) as job:
        job.wait_verdict("group.members_disagree", {0}, mentions=("new_group #1",))


def test_one_call_more_shifts_the_names_of_all_later_groups() -> None:
    each = choices([[0], [0, 1, 2]], [[0, 1, 2]], [[0, 1, 2]])
    with launch_ranks("forms", 3, env=QUICK, env_of=each, args=["build_group"]) as job:
        job.wait_verdict("group.counter_skew", {0})


def test_meshes_of_other_sizes() -> None:
    each = choices([2, 2], [2, 2], [4, 1], [2, 2])
    with launch_ranks("forms", 4, env=QUICK, env_of=each, args=["build_mesh"]) as job:
        job.wait_verdict("group.layout_disagrees", {2}, mentions=("dp 4",))


def test_a_mesh_that_does_not_fit_the_world() -> None:
    each = choices([3, 1], [3, 1])
    with launch_ranks("forms", 2, env=QUICK, env_of=each, args=["build_mesh"]) as job:
        job.wait_verdict("group.size_invalid", {0, 1})


def test_a_call_on_a_group_without_this_rank() -> None:
    each = choices([[0, 1]], [[0, 1]], [[0, 1]])
    with launch_ranks("forms", 3, env=QUICK, env_of=each, args=["build_group"]) as job:
        job.wait_step("gate end", {0, 1, 2})

        def warned(state: RunState) -> bool:
            return bool(diagnose(state))

        findings = diagnose(job.wait_state(warned))
        finding = assert_verdict(findings, code="group.not_member", culprits={2})
        assert finding.severity == "warning"
        assert_healthy(job.judged_blocking())


def test_initialized_twice() -> None:
    with launch_ranks("forms", 2, env=QUICK, args=["form_twice"]) as job:
        job.wait_verdict("group.already_initialized", {0, 1}, mentions=("forms.py", "first"))


def test_used_before_it_was_initialized() -> None:
    each = {0: {"TEST_CHOICE": "first"}}
    with launch_ranks("forms", 2, env=QUICK, env_of=each, args=["use_first"]) as job:
        job.wait_verdict("group.not_initialized", {0}, mentions=("use_first",))


def test_a_rank_that_does_not_come_to_the_second_world() -> None:
    env = {**QUICK, "TEST_SECOND_PORT": str(free_port())}
    each = {1: {"TEST_CHOICE": "stay"}}
    with launch_ranks("forms", 2, env=env, env_of=each, args=["form_again_but_for_one"]) as job:
        job.wait_step("gate end", {1})
        job.wait_verdict("rendezvous.rank_missing", {1}, mentions=("form_again_but_for_one",))


@pytest.mark.parametrize("how", ["torch", "initialize"])
def test_the_axes_of_a_mesh_are_shown_on_its_groups(how: str) -> None:
    env = {"TEST_HOW": how, "TEST_ARGUMENTS": '{"framework": "mesh", "axes": {"dp": 2, "tp": 2}}'}
    script = "build_mesh" if how == "torch" else "wait_at_the_end"
    each = choices([2, 2], [2, 2], [2, 2], [2, 2]) if how == "torch" else {}
    with launch_ranks("forms", 4, env=env, env_of=each, args=[script]) as job:
        job.wait_step("gate end", {0, 1, 2, 3})
        axes = {
            (view.axis, view.members) for view in groups_of(largest_job(job.state())) if view.axis
        }
        assert axes == {("dp", (0, 2)), ("dp", (1, 3)), ("tp", (0, 1)), ("tp", (2, 3))}
        assert_healthy(diagnose(job.state()))
