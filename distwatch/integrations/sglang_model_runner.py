"""SGLang's `ModelRunner` as a load: its start has parts, and each is a phase, whoever builds the runner."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

from distwatch.hooks.call_hook import CallHook
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_hooks import Phase
from distwatch.integrations.loads import Load, begin_load, current_load, end_load
from distwatch.integrations.registry import NotApplicable
from distwatch.state.loads import LoadArguments

RUNNER = "ModelRunner"
PARTS = {
    "load_model": "weights",
    "init_kv_cache_configurator": "KV cache",
    "alloc_memory_pool": "memory pool",
    "init_memory_pool": "memory pool",
    "init_attention_backends": "attention backend",
    "init_attention_backend": "attention backend",
    "init_cuda_graphs": "CUDA graphs",
    "init_device_graphs": "CUDA graphs",
}
"""By method: the phase. Versions have some of them (0.5.3 to 0.5.23)."""


MODEL_PARTS = {
    ("sglang.srt.model_loader.utils", "get_model_architecture"): "architecture",
    ("sglang.srt.model_loader.loader", "_initialize_model"): "model",
}
"""By module and function that the weights' phase calls: the phase within it."""


class Part(NamedTuple):
    """A part of a runner's start."""

    load: Load
    step: int
    whole: bool
    """Whether it is the outermost part, and so a load by itself."""


def begin_part(
    model_path: str, phase: str, deadline_s: float | None = None, *, ends: bool = True
) -> Part | None:
    """A load of its own, or a phase of the one that this thread is in; None where nobody observes.

    Args:
        ends: as for `begin_load`.
    """
    outer = current_load()
    if outer is not None and outer.is_mine:
        return Part(outer, outer.begin_phase(phase), whole=False)
    arguments = LoadArguments(checkpoint=model_path)
    load = begin_load(RUNNER, arguments, deadline_s=deadline_s, ends=ends)
    return Part(load, load.begin_phase(phase), whole=True) if load is not None else None


def end_part(part: Part, error: BaseException | None) -> None:
    """It has ended."""
    part.load.end_phase(part.step, error)
    if part.whole:
        end_load(part.load, None, error)


class _PartHook(CallHook):
    def __init__(self, phase: str) -> None:
        self._phase = phase

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Part | None:
        return begin_part(_path_of(self.given(args, kwargs)), self._phase)

    def after(self, token: Part | None, result: Any, error: BaseException | None) -> None:
        if token is not None:
            end_part(token, error)


def _path_of(given: Mapping[str, Any]) -> str:
    config = given.get("model_config") or getattr(given.get("self"), "model_config", None)
    return str(getattr(config, "model_path", ""))


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks the constructor and the methods that this version has."""
    runner = getattr(module, RUNNER, None)
    if runner is None:
        raise NotApplicable(f"{module.__name__} has no {RUNNER}")
    patches.observe("sglang.ModelRunner.__init__", runner, "__init__", _PartHook("constructor"))
    for name, phase in PARTS.items():
        if name in vars(runner):
            patches.observe(f"sglang.ModelRunner.{name}", runner, name, _PartHook(phase))
    for (place, name), phase in MODEL_PARTS.items():
        loader = sys.modules.get(place)
        if loader is not None and name in vars(loader):
            patches.observe(f"sglang.{name}", loader, name, Phase(phase), rebinds=True)
    return ""
