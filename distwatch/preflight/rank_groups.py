"""The groups of ranks along each axis of a plan. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import msgspec

from distwatch.preflight.plan import AXES, Plan, sizes_in_order


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """One axis of a layout.

    Attributes:
        size: ranks of a group.
        stride: the distance between two neighbours in a group.
        count: groups.
    """

    name: str
    size: int
    stride: int
    count: int

    def groups(self) -> Iterator[range]:
        """The groups, members in the order of the axis; the groups in the order of their first rank."""
        block = self.size * self.stride
        for start in range(0, self.count * self.size, block):
            for first in range(start, start + self.stride):
                yield range(first, first + block, self.stride)


def axes_of(plan: Plan, world_size: int) -> tuple[Axis, ...]:
    """The axes of a world that the plan divides, the innermost first; an axis of size 1 only if it is data.

    The expert layers' own come after: `expert`, and `expert tensor` and `expert data` where they
    differ from those of the other layers.
    """
    dense = _axes(
        sizes_in_order(plan, world_size), world_size, "replica" if plan.is_engine else "data"
    )
    if plan.is_engine or (plan.expert == 1 and plan.expert_tensor in (None, plan.tensor)):
        return dense
    experts = _axes(sizes_in_order(plan, world_size, experts=True), world_size, "data")
    named = {"tensor": "expert tensor", "data": "expert data"}
    renamed = [
        msgspec.structs.replace(axis, name=named.get(axis.name, axis.name))
        for axis in experts
        if axis not in dense and axis.size > 1
    ]
    return (*dense, *renamed)


def _axes(sizes: tuple[tuple[str, int], ...], world: int, data: str) -> tuple[Axis, ...]:
    axes = []
    for place, (name, size) in enumerate(sizes):
        stride = prod(one for _, one in sizes[:place])
        told = data if name == "dp" else AXES[name]
        if size > 1 or name == "dp":
            axes.append(Axis(name=told, size=size, stride=stride, count=world // size))
    return tuple(axes)
