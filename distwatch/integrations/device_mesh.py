"""torch's device meshes: their named axes, and the groups along them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.agent.core import Agent
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import NotApplicable, site_outside
from distwatch.integrations.step_hook import Called, StepHook
from distwatch.state.events import MeshMade, Site
from distwatch.state.steps import GROUP, MESH


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `torch.distributed.device_mesh.init_device_mesh`."""
    if "init_device_mesh" not in vars(module):
        raise NotApplicable("this torch is built without distributed")
    hook = "torch.distributed.init_device_mesh"
    patches.observe(hook, module, "init_device_mesh", _InitDeviceMesh(), rebinds=True)
    return ""


class _InitDeviceMesh(StepHook):
    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        site = site_outside("torch")
        label = _label(given.get("mesh_dim_names") or (), given.get("mesh_shape", ()))
        step = agent.begin_step(MESH, kind=GROUP, label=label, site=site)
        return Called(agent, step, site)

    def hold(self, called: Called, result: Any) -> None:
        _hold(called.agent, result, called.site)


def _label(names: Any, shape: Any) -> str:
    sizes = list(shape) if isinstance(shape, (tuple, list)) else [shape]
    if len(names) != len(sizes):
        return " × ".join(map(str, sizes))
    return " × ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))


def _hold(agent: Agent, mesh: Any, site: Site | None) -> None:
    names = tuple(str(name) for name in mesh.mesh_dim_names or ())
    sizes = tuple(int(size) for size in mesh.mesh.shape)
    agent.record(
        MeshMade(
            device=str(mesh.device_type),
            axes=names,
            sizes=sizes,
            members=tuple(int(rank) for rank in mesh.mesh.flatten().tolist()),
            site=site,
        )
    )
    # A rank outside the mesh holds none of its groups.
    if mesh.get_coordinate() is not None:
        for number, size in enumerate(sizes):
            name = names[number] if names else f"dim_{number}"
            if size > 1:
                agent.amend_group(str(mesh.get_group(number).group_name), axis=name)
