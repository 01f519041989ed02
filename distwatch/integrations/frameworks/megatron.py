"""Megatron-core: `megatron.core.parallel_state`, 0.12 to 0.16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from distwatch.integrations.frameworks.framework import Framework, Part, accepted
from distwatch.preflight.plan import Plan

_AXES = {
    "_TENSOR_MODEL_PARALLEL_GROUP": "tp",
    "_PIPELINE_MODEL_PARALLEL_GROUP": "pp",
    "_CONTEXT_PARALLEL_GROUP": "cp",
    "_DATA_PARALLEL_GROUP": "dp",
    "_EXPERT_MODEL_PARALLEL_GROUP": "ep",
    "_EXPERT_TENSOR_PARALLEL_GROUP": "etp",
    "_EXPERT_DATA_PARALLEL_GROUP": "edp",
}


class Megatron(Framework):
    """Its groups are globals of the module: whatever version, those that it has are read."""

    name = "megatron"
    packages = ("megatron.core",)
    distribution = "megatron-core"
    initializers = ("initialize_model_parallel",)
    destroyers = ("destroy_model_parallel",)
    arguments = {
        "tensor_model_parallel_size": "tp",
        "pipeline_model_parallel_size": "pp",
        "context_parallel_size": "cp",
        "expert_model_parallel_size": "ep",
        "expert_tensor_parallel_size": "etp",
    }

    def build(self, plan: Plan, options: Mapping[str, Any]) -> None:
        """As `initialize_model_parallel` of the installed version."""
        call = self.module().initialize_model_parallel
        wanted: dict[str, Any] = {
            "tensor_model_parallel_size": plan.tensor,
            "pipeline_model_parallel_size": plan.pipeline,
            "context_parallel_size": plan.context,
            "expert_model_parallel_size": plan.expert,
        }
        call(**{**accepted(call, wanted), **options})

    def parts(self, module: ModuleType) -> Iterable[Part]:
        """Every group that a global of the module names."""
        for name, held in vars(module).items():
            if name.startswith("_") and "_GROUP" in name and name.isupper():
                # With several pipelines per rank it is a list.
                several = held if isinstance(held, list) else [held]
                for group in several:
                    if _is_group(group):
                        yield Part(role=name.lstrip("_"), group=group, axis=_AXES.get(name, ""))

    def order(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """From `order="tp-cp-ep-dp-pp"`."""
        return tuple(str(given.get("order") or "").split("-")) if given.get("order") else ()


def _is_group(held: object) -> bool:
    import torch.distributed as dist

    return isinstance(held, dist.ProcessGroup) and held is not dist.GroupMember.NON_GROUP_MEMBER


framework = Megatron()
apply, undo = framework.apply, framework.undo
