"""transformers: `from_pretrained` as steps with progress, on 4.57 and 5.x alike.

Names that a version lacks are left out. Whatever may hold the GIL (safetensors does, while it
opens and faults in a file) is journaled before it is called.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import ModuleType
from typing import Any

from distwatch.agent.guard import caller_site
from distwatch.hooks.observed import error_text, observe, observe_method
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import running_agent
from distwatch.redaction import redact_text

SKIP = ("/transformers/", "/torch/", "/accelerate/", "importlib")
PROGRESS_EVERY_NS = 250_000_000
_MODEL_PHASES = {
    "_load_pretrained_model": "shards",
    "_finalize_model_loading": "finalize",
}
_MODULE_PHASES = {
    "_get_resolved_checkpoint_files": "files",
    "_get_device_map": "device map",
    "dispatch_model": "dispatch",
    "accelerate_dispatch": "dispatch",
    "load_offloaded_weights": "offload re-read",
}


class Load:
    """One `from_pretrained` under way, shared by its worker threads."""

    def __init__(self, agent: Any, step: int) -> None:
        self.agent = agent
        self.step = step
        self.shards: int | None = None
        self.opened = 0
        self.files: int | None = None
        self.parameters: int | None = None
        self.placed = 0
        self.told_ns = 0


_loads: list[Load] = []
_lock = threading.Lock()


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `transformers.modeling_utils`."""
    model = module.PreTrainedModel
    observed = vars(model)["from_pretrained"]
    patches.replace(
        model, "from_pretrained", observe_method("from_pretrained", observed, FromPretrained())
    )
    for name, phase in _MODEL_PHASES.items():
        if name in vars(model):
            hook = observe_method(f"from_pretrained {phase}", vars(model)[name], Phase(phase))
            patches.replace(model, name, hook)
    for name, phase in _MODULE_PHASES.items():
        if callable(vars(module).get(name)):
            hook = observe(f"from_pretrained {phase}", vars(module)[name], Phase(phase))
            patches.replace(module, name, hook)
    absent = [] if _hook_shards(module, patches) else ["shards"]
    if not _hook_generation_config(patches):
        absent.append("generation config")
    return f"not seen in this version: {', '.join(absent)}" if absent else ""


def undo() -> None:
    """Forgets loads under way."""
    _loads.clear()


def _hook_shards(module: ModuleType, patches: PatchSet) -> bool:
    found = False
    for name in ("safe_open", "load_shard_file"):
        if callable(vars(module).get(name)):
            hook = _observe_open(vars(module)[name])
            patches.replace(module, name, hook)
            found = True
    loading = sys.modules.get("transformers.core_model_loading")
    for name in ("set_param_for_module", "offload_and_maybe_resave_param"):
        if loading is not None and callable(vars(loading).get(name)):
            hook = observe("from_pretrained parameters", vars(loading)[name], Parameter())
            patches.replace(loading, name, hook)
    return found


def _observe_open(original: Any) -> Any:
    """`safe_open` is a class: a subclass would change what it is, a function does not."""
    return observe("from_pretrained shards", original, Shard())


def _hook_generation_config(patches: PatchSet) -> bool:
    defining = sys.modules.get("transformers.generation.configuration_utils")
    owner = getattr(defining, "GenerationConfig", None)
    if owner is None or "from_pretrained" not in vars(owner):
        return False
    hook = observe_method(
        "from_pretrained generation config",
        vars(owner)["from_pretrained"],
        Phase("generation config"),
    )
    patches.replace(owner, "from_pretrained", hook)
    return True


def current_load() -> Load | None:
    """The load that began last, whichever thread asks."""
    return _loads[-1] if _loads else None


class FromPretrained:
    """The whole call: a model class's, or an Auto class's around it."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None:
            return None
        given = args[1] if len(args) > 1 else kwargs.get("pretrained_model_name_or_path")
        step = agent.begin_step(
            "from_pretrained",
            deadline_kind="load",
            label=redact_text(str(given))[:300],
            site=caller_site(SKIP),
        )
        load = Load(agent, step)
        with _lock:
            _loads.append(load)
        return load

    def after(self, token: Load | None, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        with _lock:
            _loads.remove(token)
        token.agent.end_step(token.step, error_text(error))


class Phase:
    """A part of a load, as a step of its own. Outside a load it is nothing to us."""

    def __init__(self, name: str) -> None:
        self._name = name

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None:
            return None
        total = None
        if self._name == "shards":
            total = load.files = _checkpoint_files(args, kwargs)
        step = load.agent.begin_step(self._name, deadline_kind="load", total=total)
        if self._name == "shards":
            load.shards, load.opened, load.placed = step, 0, 0
        return load, step

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        load, step = token
        if self._name == "shards":
            if load.parameters is not None:
                load.agent.end_step(load.parameters, error_text(error))
            load.shards = load.parameters = None
        load.agent.end_step(step, error_text(error))


def _checkpoint_files(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    for value in (kwargs.get("checkpoint_files"), *args):
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
            return len(value)
    return None


class Shard:
    """A checkpoint file that is about to be opened: written down first, it may never return."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or load.shards is None:
            return
        path = args[0] if args else kwargs.get("filename", "?")
        while isinstance(path, (list, tuple)):
            path = path[0]
        load.opened += 1
        load.agent.progress_step(
            load.shards, load.opened, total=load.files, label=os.path.basename(str(path))
        )

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        """Nothing: the next shard, or the end of the step, says that this one is done."""


class Parameter:
    """A parameter that was placed: counted, and told four times a second at most."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return None

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        load = current_load()
        if load is None or load.shards is None or error is not None:
            return
        load.placed += 1
        now = time.monotonic_ns()
        if now - load.told_ns < PROGRESS_EVERY_NS:
            return
        load.told_ns = now
        if load.parameters is None:
            load.parameters = load.agent.begin_step("parameters", deadline_kind="load")
        load.agent.progress_step(load.parameters, load.placed, label=f"{load.placed} placed")
