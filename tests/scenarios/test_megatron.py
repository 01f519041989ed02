"""Megatron-core, the real one, on gloo ranks."""

from __future__ import annotations

import json

import pytest

from distwatch.preflight.plan import Plan
from distwatch.preflight.rank_groups import axes_of
from distwatch.state.layouts import Layout, layout_of, partition_faults
from distwatch.state.model import RunState
from tests.support.ranks import PATIENT, Job, launch_ranks
from tests.support.verdicts import assert_healthy

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


@pytest.mark.parametrize(("world", "sizes"), [(4, SIZES_OF_FOUR), (8, SIZES_OF_EIGHT)])
def test_its_groups_are_what_it_was_asked_for_in_every_layout(world: int, sizes: list[str]) -> None:
    """Some by its own initializer, which was imported early, and the rest by distwatch.initialize."""
    calls = [f"{'ours' if n % 2 else 'own'}:{size}" for n, size in enumerate(sizes)]
    env = {"DISTWATCH_DEADLINES": PATIENT}
    with launch_ranks("megatron_layouts", world, args=calls, env=env) as job:
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
