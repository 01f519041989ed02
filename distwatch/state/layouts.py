"""Parallel layouts as plain data: what divides a world, and whether two of them are the same. Pure.

A partition is the groups along one axis; a layout is a partition for each axis, by its name: tp,
pp, cp, dp, ep, etp, edp, whatever framework it is of.
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
"""The expert layers' axes, and those of the other layers that they may be the same as."""
_SHOWN = 4


def layout_label(framework: str, sizes: Mapping[str, int], order: Iterable[str] = ()) -> str:
    """`megatron: tp 2 × pp 2`, as the step of its initialization says it."""
    told = " × ".join(f"{axis} {size}" for axis, size in sizes.items()) or "no sizes"
    placed = "-".join(order)
    return f"{framework}: {told}" + (f", order {placed}" if placed else "")


def partition_of(groups: Iterable[Iterable[int]]) -> Partition:
    """The groups as ranks name them, each once."""
    distinct = {tuple(group) for group in groups} - {()}
    return tuple(sorted(distinct, key=lambda group: (min(group), group)))


def layout_of(held: Mapping[int, LayoutHeld]) -> Layout:
    """One framework's layout, put together from what its ranks hold."""
    axes: dict[str, set[tuple[int, ...]]] = {}
    for layout in held.values():
        for group in layout.groups:
            if group.axis:
                axes.setdefault(group.axis, set()).add(group.members)
    return {axis: partition_of(groups) for axis, groups in axes.items()}


def layout_of_mesh(mesh: MeshMade) -> Layout:
    """The layout of a device mesh whose axes have names; {} where its sizes are not those of its ranks."""
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
    """Whether all its axes are the other's, too: a mesh that a framework is built on."""
    return all(other.get(axis) == partition for axis, partition in long_axes(layout).items())


def partition_faults(partition: Partition, ranks: Iterable[int]) -> list[str]:
    """Why the groups are no disjoint covering of the ranks by groups of one size; empty: they are."""
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
        faults.append(f"{name_ranks(missing)} in no group")
    if foreign := set(seen) - wanted:
        faults.append(f"{name_ranks(foreign)} is none of this world")
    if len(sizes := {len(group) for group in partition}) > 1:
        faults.append(f"groups of {' and '.join(map(str, sorted(sizes)))} ranks")
    return faults


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """An axis along which two layouts of the same ranks differ."""

    axis: str
    kind: Literal["sizes", "members", "order"]
    """Groups of other sizes · the same sizes, other ranks together · the same ranks in another order."""
    left: Partition
    right: Partition


def differences(left: Layout, right: Layout) -> list[Difference]:
    """Where two layouts differ, along the axes that both have.

    Data is what the other axes leave: it is compared only where those are the same.
    """
    found = [
        Difference(axis=axis, kind=kind, left=left[axis], right=right[axis])
        for axis in left
        if axis in right and axis != "dp" and (kind := _kind(left[axis], right[axis]))
    ]
    if found or not ("dp" in left and "dp" in right) or _cut(left) != _cut(right):
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


def _cut(layout: Layout) -> set[str]:
    """The axes that cut a world beside data, the expert layers' own left out."""
    return {
        axis
        for axis, partition in layout.items()
        if axis not in ("dp", "ep", "etp", "edp") and any(len(group) > 1 for group in partition)
    }


def side_by_side(left: str, right: str, found: Iterable[Difference]) -> list[str]:
    """The two layouts beside each other, a line for each axis, under their names."""
    rows = [(d.axis, words_of(d.left), words_of(d.right)) for d in found]
    widths = [max(len(row[place]) for row in [("axis", left, right), *rows]) for place in (0, 1)]
    lines = [("axis", left, right), *rows]
    return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in lines]


def words_of(partition: Partition) -> str:
    """`2: 0-1 · 2-3`: how long the groups are, and the first of them."""
    sizes = "/".join(map(str, sorted({len(group) for group in partition})))
    shown = " · ".join(told(group) for group in partition[:_SHOWN])
    return f"{sizes}: {shown}{' · …' if len(partition) > _SHOWN else ''}"


def told(group: tuple[int, ...]) -> str:
    """`0-3`, `0,4`, and in full where the order is not that of the ranks."""
    return format_ranks(group) if list(group) == sorted(group) else "→".join(map(str, group))
