"""neuronx-distributed: `neuronx_distributed.parallel_layers.parallel_state`, 0.5 to 0.18.

From 0.10 on it runs on gloo, with its own switch NXD_CPU_MODE=1; before that only on xla.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from distwatch.errors import PlanInvalid
from distwatch.integrations.frameworks.framework import Framework, Part, accepted
from distwatch.integrations.registry import folders_of, running_agent
from distwatch.preflight.plan import Plan
from distwatch.state.events import FindingRaised, LayoutHeld
from distwatch.state.finding import Evidence, Finding
from distwatch.state.layouts import sizes_text
from distwatch.state.steps import PARALLEL_STATE

_AXES = {
    "_TENSOR_MODEL_PARALLEL_GROUP": "tp",
    "_PIPELINE_MODEL_PARALLEL_GROUP": "pp",
    "_CONTEXT_MODEL_PARALLEL_GROUP": "cp",
    "_DATA_PARALLEL_GROUP": "dp",
    "_EXPERT_MODEL_PARALLEL_GROUP": "ep",
    "_EXP_DATA_PARALLEL_GROUP": "edp",
}
_SPMD = "_SPMD"


class Neuron(Framework):
    """Its groups are globals, each beside a list of the members of all groups of its kind."""

    name = "neuron"
    packages = ("neuronx_distributed",)
    distribution = (
        "neuronx-distributed torch-neuronx --extra-index-url https://pip.repos.neuron.amazonaws.com "
        "(the neuronx-distributed of PyPI is an empty placeholder; it also needs torch_xla)"
    )
    initializers = ("initialize_model_parallel",)
    destroyers = ("destroy_model_parallel",)
    arguments = {
        "tensor_model_parallel_size": "tp",
        "pipeline_model_parallel_size": "pp",
        "context_parallel_size": "cp",
        "expert_model_parallel_size": "ep",
    }

    def build(self, plan: Plan, options: Mapping[str, Any]) -> None:
        """Calls `initialize_model_parallel` of the installed version, with the sizes by name.

        Raises:
            PlanInvalid: this version has no such size, or cannot run on this backend.
        """
        import torch.distributed as dist

        module = self.module()
        call = module.initialize_model_parallel
        _check_backend(module, str(dist.get_backend()))
        sizes = self.size_arguments(plan)
        wanted = {**sizes, **options}
        taken = accepted(call, wanted)
        if lacks := [n for n in wanted if n not in taken and (n in options or sizes[n] > 1)]:
            raise PlanInvalid(
                f"this neuronx-distributed has no {', '.join(lacks)}",
                advice="Leave it out, or install a newer one (context: 0.11, expert: 0.9).",
            )
        call(**taken)

    def parts(self, module: ModuleType) -> Iterable[Part]:
        """Every group in a global; its members are from the list beside it, since xla groups differ."""
        import torch.distributed as dist

        if not dist.is_initialized():
            return
        rank = dist.get_rank()
        for name, group in list(vars(module).items()):
            if not name.startswith("_") or not name.endswith("_GROUP") or group is None:
                continue
            listed: Any = vars(module).get(name + _SPMD)
            all_of_kind = listed if _is_listing(listed) else ()
            members = next((group for group in all_of_kind if rank in group), ())
            yield Part(
                role=name.lstrip("_"),
                group=group,
                axis=_AXES.get(name, ""),
                members=tuple(int(r) for r in members),
            )

    def destroy(self, module: ModuleType) -> None:
        """Its own destroyer only forgets the groups, so torch destroys them, too."""
        import torch.distributed as dist

        groups = list({id(part.group): part.group for part in self.parts(module)}.values())
        module.destroy_model_parallel()
        for group in groups:
            if group in dist.distributed_c10d._world.pg_names:
                dist.destroy_process_group(group)

    def hold(self, module: ModuleType, given: Mapping[str, Any] | None = None) -> None:
        """A second call silently makes new groups, while other code still uses the first ones."""
        import torch.distributed as dist

        agent = running_agent()
        first = agent.retained.get(LayoutHeld, self.name) if agent is not None else None
        super().hold(module, given)
        if agent is None or first is None or given is None or not first.stack:
            return
        now = agent.retained.get(LayoutHeld, self.name)
        if now is None or (now.sizes == first.sizes and now.groups == first.groups):
            return  # `mesh_only`, which builds nothing
        finding = Finding(
            code="group.already_initialized",
            severity="warning",
            culprit_ranks=(int(dist.get_rank()),),
            summary=f"neuronx-distributed was initialized a second time at {now.site} and allowed it: "
            f"groups of the first call ({sizes_text(first.sizes, 'all of size 1')}) and of the second "
            f"({sizes_text(now.sizes, 'all of size 1')}) exist side by side",
            advice="Initialize once, or call destroy_model_parallel first; "
            'distwatch.initialize(framework="neuron") with the same plan is a no-op.',
            evidence=tuple(Evidence("stack", line) for line in first.stack[-8:]),
        )
        agent.record(FindingRaised(finding=finding, step=PARALLEL_STATE))

    def folders(self) -> tuple[str, ...]:
        """Frames of torch_xla are not the user's either."""
        return (*super().folders(), *folders_of("torch_xla"))


def _check_backend(module: ModuleType, backend: str) -> None:
    if "xla" in backend:
        return
    if not hasattr(module, "cpu_mode"):
        raise PlanInvalid(
            f"this neuronx-distributed runs on xla alone, and the world's backend is {backend}",
            advice="Use backend='xla', or neuronx-distributed 0.10 or newer with NXD_CPU_MODE=1.",
        )
    if os.environ.get("NXD_CPU_MODE", "0") != "1":
        raise PlanInvalid(
            f"neuronx-distributed builds groups for Neuron devices, and the world's backend is {backend}",
            advice="Use backend='xla' on Neuron devices, or set NXD_CPU_MODE=1 to run on CPUs with gloo.",
        )


def _is_listing(listed: object) -> bool:
    # In CPU mode this global may hold groups instead of lists of members.
    return isinstance(listed, (list, tuple)) and all(isinstance(m, (list, tuple)) for m in listed)


framework = Neuron()
