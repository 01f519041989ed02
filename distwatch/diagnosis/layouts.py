"""group.layout_disagrees by the meshes that ranks build."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.check import Case, name_ranks
from distwatch.diagnosis.group_calls import SETTLED_S
from distwatch.state.agreement import odd_ones
from distwatch.state.events import MeshMade, Site
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process

MESH_STEP = "init_device_mesh"


class LayoutsDiffer:
    """The n-th mesh of each rank must be one mesh: axes, their sizes and their order."""

    def find(self, case: Case) -> Iterable[Finding]:
        meshes = {rank: _meshes(process) for rank, process in case.job.ranks.items()}
        for index in range(max((len(made) for made in meshes.values()), default=0)):
            here = {rank: made[index][0] for rank, made in meshes.items() if index < len(made)}
            if len(set(here.values())) > 1:
                sites = {rank: meshes[rank][index][1] for rank in here}
                yield self._finding(case, index, here, sites)
                return

    def _finding(
        self, case: Case, index: int, meshes: dict[int, str], sites: dict[int, Site | None]
    ) -> Finding:
        odd, decided = odd_ones(meshes)
        waiting = _waiting(case)
        by_shape: dict[str, list[int]] = {}
        for rank, shape in meshes.items():
            by_shape.setdefault(shape, []).append(rank)
        told = "; ".join(f"{name_ranks(ranks)}: {shape}" for shape, ranks in by_shape.items())
        return Finding(
            code="group.layout_disagrees",
            severity="hang" if waiting else "warning",
            culprit_ranks=tuple(sorted(odd)),
            waiting_ranks=tuple(sorted(waiting - odd)),
            summary=f"device mesh {index + 1} is not the same on every rank: {told}",
            advice="Call init_device_mesh with the same shape and the same order of names on every rank.",
            evidence=tuple(
                Evidence(
                    source="journal",
                    global_rank=rank,
                    text=f"rank {rank}: {meshes[rank]}{f', at {sites[rank]}' if sites[rank] else ''}",
                )
                for rank in [*sorted(odd)[:4], *sorted(set(meshes) - odd)[:4]]
            ),
            confidence=0.95 if decided == "majority" else 0.6,
        )


def _waiting(case: Case) -> set[int]:
    """Ranks that are stuck in building groups, or in a collective of one, past their time."""
    building = {
        rank
        for rank, process in case.job.ranks.items()
        for step in process.open_steps()
        if step.name.startswith((MESH_STEP, "new_group", "split_group"))
        and case.job.age_s(process, step.started_ns) >= SETTLED_S
    }
    return building | {r for v in case.groups if v.in_flight and v.overdue for r in v.entered}


def _meshes(process: Process) -> list[tuple[str, Site | None]]:
    """The shape of each mesh in order, the one that it is building now as the last."""
    made = [(_shape(mesh), mesh.site) for mesh in process.meshes]
    building = next((step for step in process.open_steps() if step.name == MESH_STEP), None)
    if building is not None and building.label:
        made.append((building.label, building.site))
    return made


def _shape(mesh: MeshMade) -> str:
    """As the step says it: `dp 2 × tp 4`, or sizes alone where the axes have no names."""
    if len(mesh.axes) != len(mesh.sizes):
        return " × ".join(map(str, mesh.sizes))
    return " × ".join(f"{a} {s}" for a, s in zip(mesh.axes, mesh.sizes, strict=True))
