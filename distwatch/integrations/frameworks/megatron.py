"""Megatron-core: `megatron.core.parallel_state`, 0.12 to 0.16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from distwatch.agent.guard import caller_site
from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.imports import when_imported
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.frameworks.framework import Framework, Part, accepted
from distwatch.integrations.registry import running_agent
from distwatch.preflight.plan import Plan
from distwatch.state.events import GradientSkipped

_SCHEDULES = "megatron.core.pipeline_parallel.schedules"

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
    """Its groups are globals of the module; whichever the installed version has are read."""

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
        """Calls `initialize_model_parallel` of the installed version."""
        call = self.module().initialize_model_parallel
        call(**{**accepted(call, self.size_arguments(plan)), **options})

    def parts(self, module: ModuleType) -> Iterable[Part]:
        """Every group in a global of the module."""
        for name, held in vars(module).items():
            if name.startswith("_") and "_GROUP" in name and name.isupper():
                # With several pipelines per rank the global is a list.
                several = held if isinstance(held, list) else [held]
                for group in several:
                    if _is_group(group):
                        yield Part(role=name.lstrip("_"), group=group, axis=_AXES.get(name, ""))

    def hook_more(self, module: ModuleType, patches: PatchSet) -> str:
        """The schedules' backward steps, which silently skip what needs no gradient."""
        armed = [True]
        # Schedules that are imported after the undo are not hooked.
        patches.when_undone(armed.clear)

        def hook(schedules: ModuleType) -> None:
            if armed and "backward_step" in vars(schedules):
                name, steps = "backward_step", BackwardSteps(self)
                patches.observe(f"megatron.{name}", schedules, name, steps, rebinds=True)

        when_imported(_SCHEDULES, hook)
        return ""

    def order(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """From `order="tp-cp-ep-dp-pp"`."""
        return tuple(str(given.get("order") or "").split("-")) if given.get("order") else ()


class BackwardSteps(CallHook):
    """Counts the steps of this stage whose output needs no gradient. Reads one attribute."""

    def __init__(self, framework: Framework) -> None:
        self._framework = framework
        self._steps = self._skipped = self._told = 0
        self._mixed = False

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        output = argument(args, kwargs, 1, "output_tensor")
        first = output[0] if isinstance(output, list) and output else output
        self._steps += 1
        if not getattr(first, "requires_grad", True):
            self._skipped += 1
            if self._skipped >= 10 * self._told:
                self._tell()
        elif self._skipped and not self._mixed:
            self._mixed = True
            self._tell()

    def _tell(self) -> None:
        self._told = self._skipped
        agent = running_agent()
        if agent is not None:
            site = caller_site(self._framework.folders())
            agent.record(
                GradientSkipped(
                    framework=self._framework.name, skipped=self._skipped, of=self._steps, site=site
                )
            )


def _is_group(held: object) -> bool:
    import torch.distributed as dist

    return isinstance(held, dist.ProcessGroup) and held is not dist.GroupMember.NON_GROUP_MEMBER


framework = Megatron()
