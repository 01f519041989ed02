"""accelerate's `ParallelismConfig`: torchtitan's dimensions, as a device mesh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from distwatch.integrations.frameworks.framework import Framework, Part, accepted
from distwatch.preflight.faults import size_invalid
from distwatch.preflight.plan import Plan, validate
from distwatch.state.finding import Finding


class Accelerate(Framework):
    """The state is the mesh that the builder returns; only torch destroys it."""

    name = "accelerate"
    packages = ("accelerate",)
    distribution = "accelerate"
    initializers = ("ParallelismConfig.build_device_mesh",)
    arguments = {"tp_size": "tp", "cp_size": "cp"}

    def __init__(self) -> None:
        super().__init__()
        self._mesh: Any = None

    def validate(self, plan: Plan, world: int) -> list[Finding]:
        """It has no pipeline stages and no expert layers."""
        if plan.pipeline == plan.expert == 1:
            return validate(plan, world)
        why = f"accelerate has no axis for pipeline {plan.pipeline} or expert {plan.expert}"
        advice = 'Leave both at 1, or use framework="mesh" with axes of your own.'
        return [size_invalid(why, advice)]

    def build(self, plan: Plan, options: Mapping[str, Any]) -> None:
        """Ranks beyond tensor × context become data shards, unless the options say otherwise."""
        import torch.distributed as dist

        from distwatch.integrations.torch_devices import device_of

        config = self.module().ParallelismConfig
        shards = plan.data_size(dist.get_world_size()) // options.get("dp_replicate_size", 1)
        wanted = {"tp_size": plan.tensor, "cp_size": plan.context, "dp_shard_size": shards}
        made = config(**{**accepted(config, wanted), **options})
        made.get_device_mesh(device_of(str(dist.get_backend())).type)

    def asked(self, given: Mapping[str, Any]) -> dict[str, int]:
        """The config's own sizes."""
        sizes: dict[str, int] = given["self"]._sizes
        return {axis: size for axis, size in sizes.items() if size > 1}

    def note(self, result: Any) -> None:
        """None where every size is 1: then there is no mesh."""
        self._mesh = result

    def parts(self, module: ModuleType) -> Iterable[Part]:
        """The mesh's dimensions; `dp` is the flattened dimension of its data axes."""
        mesh = self._mesh
        for name in mesh.mesh_dim_names if mesh is not None else ():
            yield Part(role=name, group=mesh.get_group(name), axis=name)
        if mesh is not None and any(name.startswith("dp_") for name in mesh.mesh_dim_names):
            yield Part(role="dp", group=mesh["dp"].get_group(), axis="dp")

    def destroy(self, module: ModuleType) -> None:
        """It has no destroyer: torch destroys the groups, those of flattened dimensions included."""
        import torch.distributed as dist

        mesh, self._mesh = self._mesh, None
        if mesh is None:
            return
        flattened = getattr(mesh._get_root_mesh(), "_flatten_mapping", {}).values()
        meshes = [mesh[name] for name in mesh.mesh_dim_names] + list(flattened)
        for group in {id(one.get_group()): one.get_group() for one in meshes}.values():
            if group is not dist.group.WORLD and group in dist.distributed_c10d._world.pg_names:
                dist.destroy_process_group(group)


framework = Accelerate()
