"""The arithmetic of layouts: what divides, what would work, who is with whom."""

from __future__ import annotations

from itertools import combinations
from math import lcm, prod

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.preflight.plan import ORDER, Plan, sizes_that_work, validate
from distwatch.preflight.rank_groups import Axis, axes_of
from distwatch.state.finding import Finding

SIZES = st.sampled_from((1, 2, 3, 4, 6, 8))
ORDERS = st.permutations(ORDER).map(tuple)


@st.composite
def plans(draw: st.DrawFn, order: st.SearchStrategy[tuple[str, ...]] = ORDERS) -> Plan:
    """Any sizes, of training or of an engine; heads and layers that may or may not fit."""
    count = st.none() | st.integers(1, 64)
    return Plan(
        framework=draw(st.sampled_from(("", "megatron", "mesh", "vllm"))),
        tensor=draw(SIZES), pipeline=draw(SIZES), context=draw(SIZES), expert=draw(SIZES),
        expert_tensor=draw(st.none() | SIZES), ulysses=draw(st.sampled_from((1, 1, 2))),
        virtual_pipeline=draw(st.none() | st.integers(1, 3)), data=draw(st.none() | SIZES),
        order=draw(order), num_attention_heads=draw(count), num_key_value_heads=draw(count),
        num_layers=draw(count), num_experts=draw(count), intermediate_size=draw(count),
    )  # fmt: skip


@st.composite
def sound_worlds(draw: st.DrawFn) -> tuple[Plan, int]:
    """A plan of sizes alone, and a world that it divides."""
    small = st.integers(1, 4)
    plan = Plan(
        tensor=draw(small), pipeline=draw(small), context=draw(small), expert=draw(small),
        ulysses=draw(st.sampled_from((1, 2))), framework=draw(st.sampled_from(("", "mesh"))),
    )  # fmt: skip
    if draw(st.booleans()):
        plan = msgspec.structs.replace(plan, framework="vllm", expert=1)
    step = lcm(prod(plan.replica.values()), prod(plan.experts_replica.values()))
    return plan, step * draw(st.integers(1, 3))


def blocking(findings: list[Finding]) -> set[str]:
    return {finding.summary for finding in findings if finding.blocks}


@settings(max_examples=100, deadline=None)
@given(sound_worlds())
def test_the_groups_of_every_axis_cut_the_world_into_equal_parts(case: tuple[Plan, int]) -> None:
    plan, world = case
    assert not blocking(validate(plan, world))
    for axis in axes_of(plan, world):
        groups = [tuple(group) for group in axis.groups()]
        assert len(groups) == axis.count
        assert {len(group) for group in groups} == {axis.size}
        assert sorted(rank for group in groups for rank in group) == list(range(world))


@settings(max_examples=100, deadline=None)
@given(sound_worlds())
def test_two_ranks_share_at_most_one_group_of_a_layout(case: tuple[Plan, int]) -> None:
    plan, world = case
    dense = [axis for axis in axes_of(plan, world) if not axis.name.startswith("expert")]
    place = {
        (axis.name, rank): number
        for axis in dense
        for number, group in enumerate(axis.groups())
        for rank in group
    }
    for one, other in combinations(dense, 2):
        pairs = {(place[one.name, rank], place[other.name, rank]) for rank in range(world)}
        assert len(pairs) == world


@settings(max_examples=100, deadline=None)
@given(sound_worlds())
def test_pipelines_of_experts_are_those_of_the_other_layers(case: tuple[Plan, int]) -> None:
    plan, world = case
    assert sum(axis.name == "pipeline" for axis in axes_of(plan, world)) == (plan.pipeline > 1)


@settings(max_examples=100, deadline=None)
@given(plans(), st.integers(1, 200))
def test_sizes_that_would_work_really_do(plan: Plan, world: int) -> None:
    before = validate(plan, world)
    for kind in ("tensor-pipeline-context-ulysses", "expert_tensor-expert-pipeline", "heads", "layers",
                 "experts", "data", "instances", "engine experts", "key/value heads", "intermediate"):  # fmt: skip
        for axis, sizes in sizes_that_work(plan, world, kind).items():
            for size in sizes:
                if axis == "world":
                    after = validate(plan, size)
                else:
                    after = validate(msgspec.structs.replace(plan, **{axis: size}), world)
                assert len(blocking(after)) < len(blocking(before)), (axis, size)


@settings(max_examples=100, deadline=None)
@given(plans(), st.none() | st.integers(1, 200))
def test_every_finding_is_a_sentence_with_something_to_do(plan: Plan, world: int | None) -> None:
    for finding in validate(plan, world):
        assert finding.summary
        assert finding.advice.endswith(".")
        assert not finding.culprit_ranks


@settings(max_examples=100, deadline=None)
@given(plans(), st.integers(1, 200))
def test_what_blocks_comes_first(plan: Plan, world: int) -> None:
    blocks = [finding.blocks for finding in validate(plan, world)]
    assert blocks == sorted(blocks, reverse=True)


def test_the_sizes_that_divide_are_named() -> None:
    (finding,) = validate(Plan(tensor=3), 8)
    assert (finding.code, finding.severity) == ("group.size_invalid", "crash")
    assert "8 cannot be divided by tensor 3" in finding.summary
    assert finding.advice == "It would work with tensor 1, 2, 4 or 8, or with a world of 6 or 9."


def test_megatrons_own_example_of_sixteen_ranks() -> None:
    groups = {
        axis.name: list(map(list, axis.groups()))
        for axis in axes_of(Plan(tensor=2, pipeline=4), 16)
    }
    assert groups["tensor"][:2] == [[0, 1], [2, 3]]
    assert groups["data"][:3] == [[0, 2], [1, 3], [4, 6]]
    assert groups["pipeline"] == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]


def test_experts_cut_the_same_world_in_their_own_way() -> None:
    axes = {axis.name: axis for axis in axes_of(Plan(tensor=2, expert=4), 16)}
    assert [list(group) for group in axes["expert"].groups()][:2] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert axes["expert data"].size == 2
    own = {axis.name: axis.size for axis in axes_of(Plan(tensor=4, expert=4, expert_tensor=1), 16)}
    assert own == {"tensor": 4, "data": 4, "expert": 4}


def test_experts_that_do_not_divide() -> None:
    (finding,) = validate(Plan(tensor=2, expert=8), 8)
    assert "expert tensor 2 × expert 8 = 16" in finding.summary
    assert "expert 1, 2 or 4" in finding.advice


@pytest.mark.parametrize(
    ("plan", "severity", "words"),
    [
        (Plan(tensor=3, num_attention_heads=32), "crash", "32 attention heads cannot be divided by tensor 3"),
        (Plan(tensor=4, num_key_value_heads=2), "warning", "each is held by 2 ranks"),
        (Plan(tensor=6, num_key_value_heads=4), "crash", "nor spread evenly"),
        (Plan(tensor=2, num_key_value_heads=3), "crash", "3 key/value heads cannot be divided"),
        (Plan(pipeline=3, num_layers=32), "crash", "32 layers cannot be divided by pipeline 3"),
        (Plan(pipeline=2, virtual_pipeline=3, num_layers=32), "crash", "pipeline 2 × virtual pipeline 3"),
        (Plan(pipeline=6, num_layers=4), "crash", "4 layers are fewer than the 6 stages"),
        (Plan(expert=4, num_experts=6), "crash", "6 experts cannot be divided by expert 4"),
        (Plan(tensor=4, intermediate_size=11_006), "crash", "intermediate size"),
        (Plan(tensor=4, vocab_size=32_001), "info", "has to be padded"),
        (Plan(virtual_pipeline=2), "crash", "at least 2 stages"),
        (Plan(tensor=0), "crash", "tensor=0 is not a size"),
        (Plan(num_layers=0), "crash", "num_layers=0"),
        (Plan(tensor=2, data=2), "crash", "tensor 2 × data 2 = 4 ranks, but the world has 12"),
        (Plan(order=("tp", "xp")), "crash", "'xp', which is not an axis"),
        (Plan(order=("tp", "tp")), "crash", "tp twice"),
        (Plan(pipeline=2, order=("tp", "dp")), "crash", "leaves out pp"),
        (Plan(pipeline=2, context=2, order=("tp", "pp", "dp", "cp", "ep")), "crash", "other pipeline groups"),
        (Plan(world_size=12, nodes=2, ranks_per_node=4), "hang", "would wait for ranks that nobody starts"),
        (Plan(world_size=12, nodes=2, ranks_per_node=8), "crash", "out of range"),
        (Plan(tensor=3, ranks_per_node=4), "warning", "span hosts"),
        (Plan(framework="vllm", tensor=2, data=4), "crash", "cannot be divided into instances"),
        (Plan(framework="vllm", tensor=2, expert=3), "crash", "does not divide tensor 2 × data 1"),
    ],
)  # fmt: skip
def test_what_stands_against_a_plan(plan: Plan, severity: str, words: str) -> None:
    findings = [finding for finding in validate(plan, 12) if words in finding.summary]
    assert [finding.severity for finding in findings] == [severity]


@pytest.mark.parametrize(
    "plan",
    [
        Plan(tensor=2, pipeline=2, context=3),
        Plan(tensor=4, num_attention_heads=32, num_key_value_heads=8, num_layers=28),
        Plan(pipeline=3, num_layers=32, uneven_pipeline=True),
        Plan(framework="vllm", tensor=2, data=2),
        Plan(framework="vllm", pipeline=3, num_layers=32),
        Plan(framework="mesh", pipeline=2, context=2, order=("tp", "pp", "dp", "cp")),
        Plan(tensor=2, data=6),
        Plan(world_size=12, nodes=3, ranks_per_node=4),
        Plan(virtual_pipeline=1),
    ],
)
def test_sound_plans(plan: Plan) -> None:
    assert validate(plan, 12) == []


def test_a_world_that_nobody_told_is_said_and_not_guessed() -> None:
    (finding,) = validate(Plan(tensor=4, pipeline=3))
    assert finding.severity == "info"
    assert "multiple of 12" in finding.advice


def test_groups_of_a_huge_world_are_not_built_beforehand() -> None:
    (data,) = axes_of(Plan(), 100_000_000)
    assert data == Axis(name="data", size=100_000_000, stride=1, count=1)
    assert next(data.groups())[-1] == 99_999_999


def test_neuron_pads_attention_heads_and_replicates_key_value_heads() -> None:
    plan = Plan(
        framework="neuron", tensor=64, world_size=64, num_attention_heads=48, num_key_value_heads=8
    )
    heads, key_value = validate(plan)
    assert (heads.severity, key_value.severity) == ("warning", "warning")
    assert (
        heads.summary == "48 attention heads cannot be divided by tensor 64: they are padded to 64"
    )
    assert "kv_size_multiplier 8" in key_value.advice
    (refused, _) = validate(msgspec.structs.replace(plan, framework="megatron"))
    assert refused.severity == "crash"
