"""Layouts as plain data: what divides a world, and whether two of them are the same."""

from __future__ import annotations

from itertools import permutations
from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.preflight.plan import Plan
from distwatch.preflight.rank_groups import axes_of
from distwatch.state import events as ev
from distwatch.state.layouts import (
    Layout,
    differences,
    layout_of,
    layout_of_mesh,
    partition_faults,
    partition_of,
    side_by_side,
)

SIZES = st.sampled_from([1, 2, 3, 4])
ORDERS = st.sampled_from([*permutations(("tp", "cp", "dp", "pp"))])
AXES = {"tensor": "tp", "pipeline": "pp", "context": "cp", "data": "dp"}


def of_plan(tensor: int, pipeline: int, context: int, data: int, order: tuple[str, ...]) -> Layout:
    plan = Plan(tensor=tensor, pipeline=pipeline, context=context, order=order)
    world = tensor * pipeline * context * data
    return {
        AXES[axis.name]: tuple(tuple(group) for group in axis.groups())
        for axis in axes_of(plan, world)
    }


def held_by(layout: Layout, rank: int) -> ev.LayoutHeld:
    """What one rank of it holds."""
    groups = tuple(
        ev.HeldGroup(role=axis.upper(), axis=axis, members=group)
        for axis, partition in layout.items()
        for group in partition
        if rank in group
    )
    return ev.LayoutHeld(framework="megatron", groups=groups)


layouts = st.builds(of_plan, SIZES, SIZES, SIZES, SIZES, ORDERS)


@given(layouts)
@settings(deadline=None)
def test_every_axis_of_a_plan_divides_its_world_and_comes_back_from_its_ranks(
    layout: Layout,
) -> None:
    world = {rank for group in layout["dp"] for rank in group}
    held = {rank: held_by(layout, rank) for rank in world}
    assert layout_of(held) == layout
    assert differences(layout, layout_of(held)) == []
    for partition in layout.values():
        assert partition_faults(partition, world) == []
        assert prod({len(group) for group in partition}) * len(partition) == len(world)


@given(layouts, st.data())
@settings(deadline=None)
def test_a_rank_that_holds_another_group_is_noticed(layout: Layout, data: st.DataObject) -> None:
    axis = data.draw(st.sampled_from(sorted(layout)))
    partition = layout[axis]
    world = {rank for group in partition for rank in group}
    if len(partition) < 2:
        return
    victim = data.draw(st.sampled_from(sorted(world)))
    away = next(group for group in partition if victim not in group)
    odd = partition_of([*partition, (*away[:-1], victim) if len(away) > 1 else (*away, victim)])
    assert partition_faults(odd, world), "that rank is in two groups now"


@given(layouts)
@settings(deadline=None)
def test_the_same_ranks_in_another_order_are_no_partition_of_one_order(layout: Layout) -> None:
    for partition in layout.values():
        if len(partition[0]) > 1:
            turned = (tuple(reversed(partition[0])), *partition[1:])
            both = partition_of([*partition, *turned])
            assert any("two groups" in fault for fault in partition_faults(both, range(999)))


@given(SIZES, SIZES, SIZES, ORDERS, ORDERS)
@settings(deadline=None)
def test_two_orders_differ_exactly_where_their_groups_do(
    tensor: int, pipeline: int, data: int, left: tuple[str, ...], right: tuple[str, ...]
) -> None:
    ours = of_plan(tensor, pipeline, 1, data, left)
    theirs = of_plan(tensor, pipeline, 1, data, right)
    found = {difference.axis: difference.kind for difference in differences(ours, theirs)}
    other = {axis for axis in ours if axis in theirs and ours[axis] != theirs[axis]}
    assert set(found) == (other - {"dp"} or other), "data is told where it is all that differs"
    assert set(found.values()) <= {"members"}, "the sizes are the same"


def test_sizes_that_differ_are_told_side_by_side() -> None:
    megatron, sglang = of_plan(4, 1, 1, 2, ("tp", "cp", "dp", "pp")), {
        "tp": ((0, 1), (2, 3), (4, 5), (6, 7)),
    }  # fmt: skip
    (difference,) = differences(megatron, sglang)
    assert (difference.axis, difference.kind) == ("tp", "sizes")
    assert side_by_side("megatron", "sglang", [difference]) == [
        "axis  megatron      sglang",
        "tp    4: 0-3 · 4-7  2: 0-1 · 2-3 · 4-5 · 6-7",
    ]


def test_groups_of_one_member_more_or_of_nobody_are_named() -> None:
    faults = partition_faults(((0, 1), (2, 3, 7)), range(5))
    assert faults == [
        "rank 4 is in no group",
        "rank 7 is not in this world",
        "groups of 2 and 3 ranks",
    ]
    assert partition_faults(((0, 0),), range(1)) == ["group 0→0 has a rank twice"]


@given(st.lists(SIZES, min_size=1, max_size=4))
@settings(deadline=None)
def test_a_mesh_divides_as_its_row_major_order_says(sizes: list[int]) -> None:
    world = prod(sizes)
    names = tuple(f"axis{n}" for n in range(len(sizes)))
    mesh = ev.MeshMade(device="cpu", axes=names, sizes=tuple(sizes), members=tuple(range(world)))
    layout = layout_of_mesh(mesh)
    assert list(layout) == list(names)
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        stride = prod(sizes[number + 1 :])
        assert partition_faults(layout[name], range(world)) == []
        assert layout[name][0] == tuple(range(0, size * stride, stride))
