"""Parallel layouts as plain data: what divides a world, and whether two of them are the same. Pure.

A partition is the groups along one axis. A layout is a partition for each axis, by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Partition = tuple[tuple[int, ...], ...]
"""Groups in the order of their first rank, members in the order of the axis."""
Layout = Mapping[str, Partition]
PARALLEL_STATE = "parallel state"
"""The step in which a framework builds its groups."""
_SHOWN = 8


def layout_label(framework: str, sizes: Mapping[str, int], order: Iterable[str] = ()) -> str:
    """`megatron: tp 2 × pp 2`, as the step of its initialization says it."""
    told = " × ".join(f"{axis} {size}" for axis, size in sizes.items()) or "no sizes"
    placed = "-".join(order)
    return f"{framework}: {told}" + (f", order {placed}" if placed else "")
