"""group.layout_disagrees: meshes and parallel states that differ between ranks or frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from distwatch.diagnosis.checks.groups.calls import SETTLED_S
from distwatch.diagnosis.facts.case import Case
from distwatch.state.agreement import odd_ones
from distwatch.state.events import LayoutHeld, MeshMade, Site
from distwatch.state.finding import Evidence, Finding
from distwatch.state.layouts import (
    Difference,
    Layout,
    differences,
    is_part_of,
    layout_of,
    layout_of_mesh,
    partition_faults,
    side_by_side,
    told,
)
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_by
from distwatch.state.steps import GROUP, MESH, PARALLEL_STATE, base_name

_ENGINES = ("sglang", "vllm")
_ALIASES = {"tensor": "tp", "pipeline": "pp", "context": "cp", "data": "dp", "expert": "ep"}
"""Other names of a mesh's axes."""


class Made(msgspec.Struct, frozen=True):
    """One mesh or parallel state, as one rank requested it."""

    shape: str
    site: Site | None = None


class LayoutsDiffer:
    """The n-th mesh, or a framework's n-th parallel state, must be the same on every rank."""

    def find(self, case: Case) -> Iterable[Finding]:
        made = {rank: _made(process) for rank, process in case.job.ranks.items()}
        for what in dict.fromkeys(what for of_rank in made.values() for what in of_rank):
            here = {rank: of_rank[what] for rank, of_rank in made.items() if what in of_rank}
            if len({one.shape for one in here.values()}) > 1:
                yield _asked_differently(case, what, here)
                return


class GroupsOverlap:
    """The groups along each axis must divide the ranks that hold them, in one order."""

    def find(self, case: Case) -> Iterable[Finding]:
        for framework, held in _held(case).items():
            if len({layout.label for layout in held.values() if layout.label}) > 1:
                continue  # the requests differ, which LayoutsDiffer reports
            layout = layout_of(held)
            for axis, partition in layout.items():
                named = set(held) | {rank for group in partition for rank in group}
                within = {rank for rank in named if rank < (case.job.world or rank + 1)}
                if faults := partition_faults(partition, within):
                    yield _overlap(framework, axis, held, faults)
                    break


class FrameworksDiffer:
    """Two layouts of the same ranks at the same time: axes of one name should be equal."""

    def find(self, case: Case) -> Iterable[Finding]:
        states = _held(case)
        named = [(name, frozenset(held), layout_of(held)) for name, held in states.items()]
        if states and not _building_meshes(case):
            named += [m for m in _meshes_of(case) if not any(is_part_of(m[2], n[2]) for n in named)]
        for place, (left, of_left, ours) in enumerate(named):
            for right, of_right, theirs in named[place + 1 :]:
                meshes = left.startswith("device mesh") and right.startswith("device mesh")
                if of_left == of_right and not meshes and (found := differences(ours, theirs)):
                    yield _frameworks_differ(left, right, found)


def _made(process: Process) -> dict[str, Made]:
    """By kind and number; the one under construction comes last."""
    made = {f"device mesh {n}": Made(shape_of(m), m.site) for n, m in enumerate(process.meshes, 1)}
    building = next((step for step in process.open_steps() if step.name == MESH), None)
    if building is not None and building.label:
        made[f"device mesh {len(process.meshes) + 1}"] = Made(building.label, building.site)
    for step in process.steps.values():
        if step.name.startswith(PARALLEL_STATE) and not step.error:
            number = step.name.rpartition("#")[2]
            made[f"the parallel state of {step.label.partition(':')[0]}, number {number},"] = Made(
                step.label.partition(": ")[2], step.site
            )
    return made


def _asked_differently(case: Case, what: str, made: Mapping[int, Made]) -> Finding:
    odd, decided = odd_ones({rank: one.shape for rank, one in made.items()})
    waiting = _waiting(case)
    listed = "; ".join(name_by({rank: one.shape for rank, one in made.items()}))
    call = "init_device_mesh" if what.startswith("device mesh") else "the framework's initializer"
    return Finding(
        code="group.layout_disagrees",
        severity="hang" if waiting else "warning",
        culprit_ranks=tuple(sorted(odd)),
        waiting_ranks=tuple(sorted(waiting - odd)),
        summary=f"{what} is not the same on every rank: {listed}",
        advice=f"Call {call} with the same sizes and the same order of axes on every rank.",
        evidence=tuple(
            Evidence(
                "journal",
                f"rank {rank}: {made[rank].shape}{f', at {made[rank].site}' if made[rank].site else ''}",
                rank,
            )
            for rank in [*sorted(odd)[:4], *sorted(set(made) - odd)[:4]]
        ),
        confidence=0.95 if decided == "majority" else 0.6,
    )


def _waiting(case: Case) -> set[int]:
    """Ranks that are stuck in building groups, or in a collective of such a group."""
    building = {
        rank
        for rank, process in case.job.ranks.items()
        for step in process.open_steps()
        if base_name(step.name) in GROUP.calls
        and case.job.age_s(process, step.started_ns) >= SETTLED_S
    }
    return building | {r for v in case.groups if v.in_flight and v.overdue for r in v.entered}


def _held(case: Case) -> dict[str, dict[int, LayoutHeld]]:
    """By framework, what ranks hold, once all of them have held it for a while.

    Journals are read one after the other: for a moment, some ranks' layouts are older than others'.
    """
    held: dict[str, dict[int, LayoutHeld]] = {}
    young: set[str] = set()
    for rank, process in case.job.ranks.items():
        for framework, layout in process.layouts.items():
            held.setdefault(framework, {})[rank] = layout
            if case.job.age_s(process, process.layouts_ns[framework]) < SETTLED_S:
                young.add(framework)
    return {framework: of for framework, of in held.items() if framework not in young}


def _building_meshes(case: Case) -> bool:
    """Whether a mesh was built a moment ago: the framework that built it reports its layout later."""
    steps = [(p, s) for p in case.job.ranks.values() for s in p.steps.values()]
    return any(
        step.ended_ns is None or case.job.age_s(process, step.ended_ns) < 2 * SETTLED_S
        for process, step in steps
        if step.name == MESH
    )


def _meshes_of(case: Case) -> list[tuple[str, frozenset[int], Layout]]:
    """The meshes of the lowest rank that has any; another check compares them across ranks."""
    meshes = next((p.meshes for _, p in sorted(case.job.ranks.items()) if p.meshes), [])
    return [
        (
            f"device mesh {number} ({shape_of(mesh)})",
            frozenset(mesh.members),
            {_ALIASES.get(axis, axis): part for axis, part in layout_of_mesh(mesh).items()},
        )
        for number, mesh in enumerate(meshes, 1)
    ]


def _overlap(
    framework: str, axis: str, held: Mapping[int, LayoutHeld], faults: list[str]
) -> Finding:
    own = {
        rank: told(group.members)
        for rank, layout in held.items()
        for group in layout.groups
        if group.axis == axis
    }
    return Finding(
        code="group.layout_disagrees",
        severity="warning",
        summary=f"the {axis} groups of {framework} do not divide its ranks: {'; '.join(faults[:3])}",
        advice="Initialize it with the same sizes, the same order of axes and the same ranks everywhere.",
        evidence=tuple(
            Evidence("journal", f"rank {rank} holds {axis} {group}", rank)
            for rank, group in sorted(own.items())[:8]
        ),
        confidence=0.9,
    )


def _frameworks_differ(left: str, right: str, found: list[Difference]) -> Finding:
    axes = ", ".join(difference.axis for difference in found)
    resharded = (left in _ENGINES) != (right in _ENGINES) and all(d.kind == "sizes" for d in found)
    more = "s" if len(found) == 1 else ""
    return Finding(
        code="group.layout_disagrees",
        severity="info" if resharded else "warning",
        summary=f"{left} and {right} divide the same ranks in different ways: {axes} differ{more}",
        advice=(
            "Weights that go from one to the other have to be resharded; if that is not intended, give "
            "both the same sizes."
            if resharded
            else "Give both the same sizes and the same order of axes, or keep them different on purpose."
        ),
        evidence=tuple(Evidence("journal", line) for line in side_by_side(left, right, found)),
        confidence=0.5 if resharded else 0.8,
    )


def shape_of(mesh: MeshMade) -> str:
    """As the step names it: `dp 2 × tp 4`, or only sizes where the axes have no names."""
    if len(mesh.axes) != len(mesh.sizes):
        return " × ".join(map(str, mesh.sizes))
    return " × ".join(f"{a} {s}" for a, s in zip(mesh.axes, mesh.sizes, strict=True))
