"""Megatron-core, the real one, on gloo ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.preflight.plan import Plan
from distwatch.preflight.rank_groups import axes_of
from distwatch.state.layouts import Layout, layout_of, partition_faults
from distwatch.state.model import RunState
from tests.support.outcomes import outcomes_of
from tests.support.ranks import PATIENT, Job, launch_ranks, torchrun
from tests.support.verdicts import assert_healthy

QUIET = {"DISTWATCH_DEADLINES": PATIENT}
AXES = {"tensor": "tp", "pipeline": "pp", "context": "cp", "data": "dp", "expert": "ep"}
SIZES_OF_FOUR = ["2,2,1,1", "1,4,1,1", "2,1,1,1", "1,2,1,1", "1,1,2,1", "1,1,1,2", "2,1,1,2"]
SIZES_OF_EIGHT = ["2,2,1,1", "2,1,2,1", "1,2,1,2", "2,2,2,1"]


def expected(sizes: str, world: int) -> Layout:
    """By the arithmetic of plans."""
    tensor, pipeline, context, expert = (int(size) for size in sizes.split(","))
    plan = Plan(
        framework="megatron", tensor=tensor, pipeline=pipeline, context=context, expert=expert
    )
    return {
        AXES[axis.name]: tuple(tuple(group) for group in axis.groups())
        for axis in axes_of(plan, world)
        if axis.name in AXES
    }


def written(job: Job, world: int) -> list[list[dict]]:
    job.wait_step("written", range(world), timeout_s=150)
    return [json.loads((job.work / f"layouts-{rank}.json").read_text()) for rank in range(world)]


def ranks_of(state: RunState) -> dict:
    held = {p.global_rank: p.layouts["megatron"] for p in state.processes.values() if p.layouts}
    return {rank: layout for rank, layout in sorted(held.items()) if rank is not None}


@pytest.mark.parametrize(
    ("launch", "world", "sizes"),
    [(launch_ranks, 4, SIZES_OF_FOUR), (torchrun, 8, SIZES_OF_EIGHT)],
)
def test_its_groups_are_what_it_was_asked_for_in_every_layout(
    launch: Callable[..., AbstractContextManager[Job]], world: int, sizes: list[str]
) -> None:
    """Some by its own initializer, which was imported early, and the rest by distwatch.initialize."""
    calls = [f"{'ours' if n % 2 else 'own'}:{size}" for n, size in enumerate(sizes)]
    with launch("megatron_layouts", world, args=calls, env=QUIET) as job:
        told = written(job, world)
        for number, size in enumerate(sizes):
            layout = expected(size, world)
            for axis, partition in layout.items():
                for rank in range(world):
                    (group,) = [members for members in partition if rank in members]
                    of_rank = told[rank][number]
                    assert tuple(of_rank["held"][axis]) == group, (size, axis, rank)
                    if "groups" in of_rank and (len(group) > 1 or axis == "dp"):
                        assert tuple(of_rank["groups"][axis]) == group
        state = job.state()
        held = ranks_of(state)
        assert sorted(held) == list(range(world))
        journaled = layout_of(held)
        for axis, partition in expected(sizes[-1], world).items():
            assert journaled[axis] == partition
        assert all(not partition_faults(part, range(world)) for part in journaled.values())
        assert {layout.number for layout in held.values()} == {len(sizes)}
        roles = {group.role: group for group in held[0].groups}
        assert roles["TENSOR_MODEL_PARALLEL_GROUP"].axis == "tp"
        assert all(layout.stack[-1].startswith(str(layout.site.file)) for layout in held.values())
        assert_healthy(job.judged_blocking())


MISUSES = [
    (
        "get_too_early", "group.not_initialized",
        ("tensor model parallel group is not initialized", 'distwatch.initialize(framework="megatron"',
         "was never built"),
    ),
    ("get_after_destroying", "group.not_initialized", ("it was destroyed before", "framework=")),
    (
        "initialize_twice", "group.already_initialized",
        ("already initialized", "still exists with tp 2", "first call: ", "in build_model"),
    ),
    (
        "initialize_again_by_distwatch", "group.already_initialized",
        ("megatron tp=2", "megatron pp=2", "in build_model"),
    ),
    ("divide_badly", "group.size_invalid", ("not divisible by 3", "choose each from 1, 2")),
]  # fmt: skip


@pytest.mark.parametrize(("case", "code", "mentions"), MISUSES)
def test_what_it_refuses_is_explained(case: str, code: str, mentions: tuple[str, ...]) -> None:
    with launch_ranks("megatron_misuse", 2, args=(case,)) as job:
        finding = job.wait_verdict(code, {0, 1})
        told = " ".join(
            [finding.summary, finding.advice, *(evidence.text for evidence in finding.evidence)]
        )
        assert not [words for words in mentions if words not in told], told


def test_sizes_that_differ_between_ranks_name_the_odd_one() -> None:
    with launch_ranks("megatron_misuse", 4, args=("differ_in_sizes",)) as job:
        finding = job.wait_verdict("group.layout_disagrees", {3})
        assert "tp 2 × pp 2" in finding.summary
        assert "tp 4" in finding.summary


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ('"tensor": 3', "dp=3"),
        ('"options": {"create_gloo_process_groups": false}', "create_gloo_process_groups=False"),
    ],
)
def test_what_initialize_was_given_is_compared_before_any_group_is_built(
    odd: str, words: str
) -> None:
    """Options, too: with fewer groups on one rank the names of all later ones would be shifted."""
    env = {**QUIET, "TEST_HOW": "initialize", "TEST_ARGUMENTS": '{"framework": "megatron"}'}
    each = {2: {"TEST_ARGUMENTS": f'{{"framework": "megatron", {odd}}}'}}
    with launch_ranks("forms", 3, env=env, env_of=each, args=["wait_at_the_end"]) as job:
        outcomes = outcomes_of(job, {0, 1, 2})
        assert {outcome["code"] for outcome in outcomes.values()} == {"group.layout_disagrees"}
        assert {tuple(outcome["culprits"]) for outcome in outcomes.values()} == {(2,)}
        assert words in outcomes[0]["message"]


@pytest.mark.parametrize("tensor", [2, 4])
def test_two_frameworks_in_one_world_are_laid_side_by_side(tensor: int) -> None:
    with launch_ranks("two_frameworks", 4, args=(str(tensor),), env=QUIET) as job:
        job.wait_step("gate end", range(4), timeout_s=120)
        if tensor == 2:
            job.wait_ticks(4)
            assert diagnose(job.state()) == []
            for rank in range(4):
                job.open_gate("end", rank)
            job.wait_step("closed", range(4))
            return

        def differ(state: RunState) -> bool:
            return bool(diagnose(state))

        (finding,) = diagnose(job.wait_state(differ))
        assert (finding.code, finding.severity) == ("group.layout_disagrees", "warning")
        assert [evidence.text for evidence in finding.evidence] == [
            "axis  megatron      accelerate",
            "tp    2: 0-1 · 2-3  4: 0-3",
        ]
