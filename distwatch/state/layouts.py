"""Parallel layouts as plain data: how a world is divided, and whether two layouts are the same. Pure.

A partition is the groups along one axis; a layout has a partition for each axis, by its name (tp, pp,
cp, dp, ep, etp, edp), whichever framework it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Literal

import msgspec

from distwatch.state.events import LayoutHeld, MeshMade
from distwatch.state.rank_sets import format_ranks, name_ranks

Partition = tuple[tuple[int, ...], ...]
"""Groups in the order of their first rank, members in the order of the axis."""
Layout = Mapping[str, Partition]
TWINS = {"etp": "tp", "edp": "dp"}
"""The expert layers' axes, and the other layers' axes that they may be equal to."""
_SHOWN = 4


def layout_label(framework: str, sizes: Mapping[str, int], order: Iterable[str] = ()) -> str:
    """`megatron: tp 2 × pp 2`: the label of the step that initializes it."""
    placed = "-".join(order)
    return f"{framework}: {sizes_text(sizes)}" + (f", order {placed}" if placed else "")


def sizes_text(sizes: Mapping[str, int], otherwise: str = "no sizes") -> str:
    """`tp 2 × pp 2`, without the sizes of 1."""
    return " × ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or otherwise


def partition_of(groups: Iterable[Iterable[int]]) -> Partition:
    """The groups that the ranks name, each once."""
    distinct = {tuple(group) for group in groups} - {()}
    return tuple(sorted(distinct, key=lambda group: (min(group), group)))


def layout_of(held: Mapping[int, LayoutHeld]) -> Layout:
    """One framework's layout, assembled from what its ranks hold."""
    axes: dict[str, set[tuple[int, ...]]] = {}
    for layout in held.values():
        for group in layout.groups:
            if group.axis:
                axes.setdefault(group.axis, set()).add(group.members)
    return {axis: partition_of(groups) for axis, groups in axes.items()}


def layout_of_mesh(mesh: MeshMade) -> Layout:
    """The layout of a device mesh with named axes; {} where its sizes do not fit its ranks."""
    if min(mesh.sizes, default=0) < 1 or prod(mesh.sizes) != len(mesh.members):
        return {}
    layout, inner = {}, 1
    for axis, size in reversed(tuple(zip(mesh.axes, mesh.sizes, strict=False))):
        block = inner * size
        starts = [s + o for s in range(0, len(mesh.members), block) for o in range(inner)]
        layout[axis] = partition_of(
            mesh.members[start : start + block : inner][:size] for start in starts
        )
        inner = block
    return dict(reversed(layout.items()))


def long_axes(layout: Layout) -> dict[str, Partition]:
    """The axes along which groups have more than one rank."""
    return {axis: part for axis, part in layout.items() if any(len(group) > 1 for group in part)}


def is_part_of(layout: Layout, other: Layout) -> bool:
    """Whether the other layout has all its axes: a mesh that a framework is built on."""
    return all(other.get(axis) == partition for axis, partition in long_axes(layout).items())


def partition_faults(partition: Partition, ranks: Iterable[int]) -> list[str]:
    """Why the groups do not divide the ranks into disjoint groups of one size; empty: they do."""
    faults = []
    seen: dict[int, tuple[int, ...]] = {}
    for group in partition:
        if len(set(group)) < len(group):
            faults.append(f"group {'→'.join(map(str, group))} has a rank twice")
        for rank in dict.fromkeys(group):
            if rank in seen:
                faults.append(f"rank {rank} is in two groups, {told(seen[rank])} and {told(group)}")
            seen[rank] = group
    wanted = set(ranks)
    if missing := wanted - set(seen):
        faults.append(f"{name_ranks(missing, 'is', 'are')} in no group")
    if foreign := set(seen) - wanted:
        faults.append(f"{name_ranks(foreign, 'is', 'are')} not in this world")
    if len(sizes := {len(group) for group in partition}) > 1:
        faults.append(f"groups of {' and '.join(map(str, sorted(sizes)))} ranks")
    return faults


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """An axis along which two layouts of the same ranks differ."""

    axis: str
    kind: Literal["sizes", "members", "order"]
    """Groups of different sizes · same sizes, different members · same members in another order."""
    left: Partition
    right: Partition


def differences(left: Layout, right: Layout) -> list[Difference]:
    """Where two layouts differ, along the axes that both have.

    The data axis is what the other axes leave, so it is compared only where they are the same.
    """
    found = [
        Difference(axis=axis, kind=kind, left=left[axis], right=right[axis])
        for axis in left
        if axis in right and axis != "dp" and (kind := _kind(left[axis], right[axis]))
    ]
    if (
        found
        or not ("dp" in left and "dp" in right)
        or _dividing_axes(left) != _dividing_axes(right)
    ):
        return found
    kind = _kind(left["dp"], right["dp"])
    return [Difference(axis="dp", kind=kind, left=left["dp"], right=right["dp"])] if kind else []


def _kind(left: Partition, right: Partition) -> Literal["sizes", "members", "order"] | None:
    if left == right:
        return None
    if sorted(map(len, left)) != sorted(map(len, right)):
        return "sizes"
    same = {frozenset(group) for group in left} == {frozenset(group) for group in right}
    return "order" if same else "members"


def _dividing_axes(layout: Layout) -> set[str]:
    """The axes other than data that divide a world, without the expert layers' own axes."""
    return {
        axis
        for axis, partition in layout.items()
        if axis not in ("dp", "ep", "etp", "edp") and any(len(group) > 1 for group in partition)
    }


def side_by_side(left: str, right: str, found: Iterable[Difference]) -> list[str]:
    """The two layouts side by side, a line for each axis, under their names."""
    rows = [(d.axis, words_of(d.left), words_of(d.right)) for d in found]
    widths = [max(len(row[place]) for row in [("axis", left, right), *rows]) for place in (0, 1)]
    lines = [("axis", left, right), *rows]
    return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in lines]


def words_of(partition: Partition) -> str:
    """`2: 0-1 · 2-3`: the size of the groups, and the first groups."""
    sizes = "/".join(map(str, sorted({len(group) for group in partition})))
    shown = " · ".join(told(group) for group in partition[:_SHOWN])
    return f"{sizes}: {shown}{' · …' if len(partition) > _SHOWN else ''}"


def told(group: tuple[int, ...]) -> str:
    """`0-3`, `0,4`; in full where the members are not in ascending order."""
    return format_ranks(group) if list(group) == sorted(group) else "→".join(map(str, group))
