"""The parallel layouts of a job as grids, with each rank in its place, for every view."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import msgspec

from distwatch.diagnosis.checks.groups.layouts import shape_of
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.state.layouts import Layout, is_part_of, layout_of, layout_of_mesh, long_axes
from distwatch.state.model import RunState

_OUTERMOST = ("dp", "pp", "cp", "tp")
_COLUMNS = ("cp", "tp")
_EXPERTS = ("ep", "etp", "edp")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One place along the axes that go down: `dp 0 · pp 1`; and the ranks there in each column."""

    place: str
    cells: tuple[tuple[int, ...], ...]


class LayoutGrid(msgspec.Struct, frozen=True, kw_only=True):
    """One framework's layout, or a device mesh."""

    name: str
    shape: str
    """`dp 2 × pp 2 × tp 2`"""
    columns: tuple[str, ...]
    """`tp 0`, `tp 1`, …; one nameless column where no axis goes across."""
    rows: tuple[Row, ...]
    axes: dict[str, tuple[tuple[int, ...], ...]]
    """The groups along each axis of more than one rank, including those of expert layers."""
    names: dict[str, tuple[str, ...]] = {}
    """torch's name for each of them, in the same order; '' where it is not known."""
    unplaced: tuple[int, ...] = ()
    """Ranks of its groups whose coordinates are not known."""


def layout_grids(state: RunState, job: Job | None = None) -> list[LayoutGrid]:
    """The layouts of the newest restart: frameworks first, then meshes of other groups."""
    job = job or largest_job(state)
    held: dict[str, Layout] = {}
    names: dict[tuple[str, str, tuple[int, ...]], str] = {}
    for framework in dict.fromkeys(name for p in job.ranks.values() for name in p.layouts):
        of_ranks = {r: p.layouts[framework] for r, p in job.ranks.items() if framework in p.layouts}
        held[framework] = layout_of(of_ranks)
        for layout_held in of_ranks.values():
            for group in layout_held.groups:
                names[framework, group.axis, group.members] = group.pg_name
    frameworks = list(held.values())
    meshes = next((p.meshes for _, p in sorted(job.ranks.items()) if p.meshes), [])
    for number, mesh in enumerate(meshes, 1):
        layout = layout_of_mesh(mesh)
        # A framework that is built on a mesh is shown only once.
        if not any(is_part_of(layout, other) for other in frameworks):
            held[f"device mesh {number} ({shape_of(mesh)})"] = layout
    return [_grid(name, layout, names) for name, layout in held.items() if layout]


def _grid(
    name: str, layout: Layout, names: Mapping[tuple[str, str, tuple[int, ...]], str]
) -> LayoutGrid:
    ranks = sorted({rank for part in layout.values() for group in part for rank in group})
    axes = _orthogonal(layout, len(ranks))
    across = [axis for axis in axes if axis in _COLUMNS] or axes[-1:]
    down = [axis for axis in axes if axis not in across]
    sizes = {axis: max(len(group) for group in layout[axis]) for axis in axes}
    by_place: dict[tuple[int, ...], list[int]] = {}
    unplaced = []
    indices = [
        {rank: index for group in layout[axis] for index, rank in enumerate(group)}
        for axis in (*down, *across)
    ]
    for rank in ranks:
        places = [index.get(rank) for index in indices]
        if None in places:
            unplaced.append(rank)
        else:
            by_place.setdefault(tuple(place or 0 for place in places), []).append(rank)
    columns = list(product(*(range(sizes[axis]) for axis in across)))
    rows = [
        Row(
            place=_coordinates(down, place),
            cells=tuple(tuple(by_place.get((*place, *column), ())) for column in columns),
        )
        for place in product(*(range(sizes[axis]) for axis in down))
    ]
    return LayoutGrid(
        name=name,
        shape=" × ".join(f"{axis} {sizes[axis]}" for axis in axes) or "one rank",
        columns=tuple(_coordinates(across, column) for column in columns),
        rows=tuple(rows),
        axes=long_axes(layout),
        names={
            axis: tuple(names.get((name, axis, group), "") for group in partition)
            for axis, partition in long_axes(layout).items()
        },
        unplaced=tuple(unplaced),
    )


def _orthogonal(layout: Layout, ranks: int) -> list[str]:
    """Axes that together number the ranks, the outermost first.

    The axes of expert layers divide the same ranks differently, and some frameworks have further axes
    that are flattened from others: axes beyond the number of ranks are left out.
    """
    long = long_axes(layout)
    others = [axis for axis in long if axis not in (*_OUTERMOST, *_EXPERTS)]
    first = [axis for axis in _OUTERMOST if axis in long]
    chosen: list[str] = []
    number = 1
    for axis in (*first, *others):
        size = max(len(group) for group in long[axis])
        if ranks % (number * size) == 0 and long[axis] not in [long[one] for one in chosen]:
            chosen.append(axis)
            number *= size
    order = [axis for axis in long if axis in chosen and axis not in first]
    return [axis for axis in first if axis in chosen and axis not in _COLUMNS] + order + [
        axis for axis in _COLUMNS if axis in chosen
    ]  # fmt: skip


def _coordinates(axes: list[str], place: tuple[int, ...]) -> str:
    return " · ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=True))
