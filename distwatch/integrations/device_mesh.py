"""torch's device meshes: their named axes, and the groups along them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.agent.core import Agent
from distwatch.agent.guard import caller_site, error_text
from distwatch.hooks.call_hook import observe
from distwatch.hooks.patch import PatchSet
from distwatch.hooks.rebinding import rebind_early_imports
from distwatch.integrations.registry import NotApplicable, folders_of, running_agent
from distwatch.state.events import MeshMade, Site


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `torch.distributed.device_mesh.init_device_mesh`."""
    original = vars(module).get("init_device_mesh")
    if original is None:
        raise NotApplicable("this torch is built without distributed")
    hooked = observe("torch.distributed.init_device_mesh", original, _InitDeviceMesh())
    patches.replace(module, "init_device_mesh", hooked)
    rebind_early_imports(patches, original, hooked)
    return ""


def undo() -> None:
    """Nothing is held beside the patches."""


class _InitDeviceMesh:
    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None:
            return None
        shape = kwargs.get("mesh_shape", args[1] if len(args) > 1 else ())
        names = kwargs.get("mesh_dim_names") or ()
        site = caller_site(folders_of("torch"))
        step = agent.begin_step(
            "init_device_mesh", deadline_kind="group", label=_label(names, shape), site=site
        )
        return agent, step, site

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        agent, step, site = token
        if error is None:
            _hold(agent, result, site)
        agent.end_step(step, error_text(error))


def _label(names: Any, shape: Any) -> str:
    sizes = list(shape) if isinstance(shape, (tuple, list)) else [shape]
    if len(names) != len(sizes):
        return " × ".join(map(str, sizes))
    return " × ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))


def _hold(agent: Agent, mesh: Any, site: Site | None) -> None:
    names = tuple(str(name) for name in mesh.mesh_dim_names or ())
    sizes = tuple(int(size) for size in mesh.mesh.shape)
    agent.hold_mesh(
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
                agent.name_axis(str(mesh.get_group(number).group_name), name)
