"""A plan's layouts against what a running job holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.preflight.plan import Plan, validate
from distwatch.preflight.rank_groups import axes_of
from distwatch.preflight.values import Section
from distwatch.state.finding import Evidence, Finding
from distwatch.state.layouts import (
    Layout,
    Partition,
    differences,
    partition_faults,
    partition_of,
    side_by_side,
)

_NAMES = {
    "tensor": "tp", "pipeline": "pp", "context": "cp", "data": "dp", "expert": "ep",
    "expert tensor": "etp", "expert data": "edp",
}  # fmt: skip
"""A plan's axes by their names in parallel states."""
_ALWAYS = ("tp", "pp", "cp")
"""Axes that a plan does not state have size 1."""


class JobLayout(msgspec.Struct, frozen=True, kw_only=True):
    """One framework's layout, as the ranks of one world hold it."""

    framework: str
    world: int
    layout: Layout


def compare_with_job(section: Section, job: Iterable[JobLayout]) -> list[Finding]:
    """Findings where a plan's layout and the job's differ; empty where they agree."""
    plan = section.plan
    framework = plan.framework or "megatron"
    held = [one for one in job if one.framework == framework]
    if not held:
        return [_not_there(section, framework)]
    ranks = plan.tensor * plan.pipeline if plan.is_engine else plan.ranks
    same = [one for one in held if ranks is None or one.world == ranks]
    if not same:
        worlds = " and ".join(str(n) for n in sorted({one.world for one in held}))
        what = (
            f"{section.name} is planned for {ranks} ranks, but the job's {framework} has {worlds}"
        )
        return [_disagrees(what, [])]
    compared = [_compare(section, one) for one in same]
    # Several worlds of a run can use one framework: the plan describes one of them.
    return min(compared, key=len)


def planned_layout(plan: Plan, world: int) -> Layout:
    """The groups along each axis that parallel states name; {} where the sizes do not fit."""
    if any(finding.blocks for finding in validate(plan, world)):
        return {}
    planned: dict[str, Partition] = {
        _NAMES[axis.name]: partition_of(axis.groups())
        for axis in axes_of(plan, world)
        if axis.name in _NAMES
    }
    alone = partition_of((rank,) for rank in range(world))
    return {**dict.fromkeys(_ALWAYS, alone), **planned}


def _compare(section: Section, held: JobLayout) -> list[Finding]:
    seen = {
        axis: partition
        for axis, partition in held.layout.items()
        if not partition_faults(partition, range(held.world))
    }
    found = differences(planned_layout(section.plan, held.world), seen)
    if not found:
        return []
    told = "; ".join(
        f"{one.axis} groups of {_lengths(one.left)} planned and {_lengths(one.right)} held"
        if one.kind == "sizes"
        else f"{one.axis} groups with other {one.kind}"
        for one in found
    )
    what = f"{section.name} differs from what the job's {held.framework} holds: {told}"
    return [_disagrees(what, side_by_side("plan", held.framework, found))]


def _lengths(partition: Partition) -> str:
    return "/".join(str(n) for n in sorted({len(group) for group in partition}))


def _disagrees(what: str, lines: list[str]) -> Finding:
    return Finding(
        code="group.layout_disagrees",
        severity="warning",
        summary=what,
        advice="Start the job with the plan's sizes, or change the plan: checkpoints, resharding and "
        "rollout engines depend on it.",
        evidence=tuple(Evidence("plan", line) for line in lines),
    )


def _not_there(section: Section, framework: str) -> Finding:
    return Finding(
        code="group.not_initialized",
        severity="info",
        summary=f"{section.name} plans {framework}, but no rank of the job holds a parallel state of it",
        advice="Run this again once the job has initialized it; ranks without distwatch do not report it.",
    )
