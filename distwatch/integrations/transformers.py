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

from distwatch.agent.guard import caller_site, error_text
from distwatch.hooks.observed import observe, observe_method
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import folders_of, running_agent
from distwatch.redaction import redact_text

LIBRARIES = ("transformers", "torch", "accelerate", "huggingface_hub")
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
# Phase → the module that defines it, the class by its names in 5.x and 4.x, the method.
_READERS = {
    "config": (
        "transformers.configuration_utils",
        ("PreTrainedConfig", "PretrainedConfig"),
        "get_config_dict",
    ),
    "generation config": (
        "transformers.generation.configuration_utils",
        ("GenerationConfig",),
        "from_pretrained",
    ),
}


class Load:
    """One `from_pretrained` under way, shared by its worker threads.

    Attributes:
        opened: each checkpoint file, and which one in order it is: 4.x opens them several times.
        thread: that made the call; only there do steps begin, for a step's parent is the
            innermost open one of its thread.
    """

    def __init__(self, agent: Any, step: int) -> None:
        self.agent = agent
        self.step = step
        self.thread = threading.get_ident()
        self.shards: int | None = None
        self.opened: dict[str, int] = {}
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
    absent += [phase for phase in _READERS if not _hook_reader(phase, patches)]
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


def _hook_reader(phase: str, patches: PatchSet) -> bool:
    """Hooks what reads a small file, from the hub perhaps: it can take minutes in silence."""
    module, classes, method = _READERS[phase]
    defining = sys.modules.get(module)
    owners = [owner for name in classes if (owner := getattr(defining, name, None)) is not None]
    owner = next((owner for owner in owners if method in vars(owner)), None)
    if owner is None:
        return False
    hook = observe_method(f"from_pretrained {phase}", vars(owner)[method], Phase(phase))
    patches.replace(owner, method, hook)
    return True


def current_load() -> Load | None:
    """This thread's innermost load; in a worker thread, which has none, the one that began last."""
    loads = list(_loads)
    mine = threading.get_ident()
    return next(
        (load for load in reversed(loads) if load.thread == mine), loads[-1] if loads else None
    )


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
            site=caller_site(folders_of(*LIBRARIES)),
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
        if load is None or load.thread != threading.get_ident():
            return None
        total = None
        if self._name == "shards":
            total = load.files = _checkpoint_files(args, kwargs)
        step = load.agent.begin_step(self._name, deadline_kind="load", total=total)
        if self._name == "shards":
            load.shards, load.opened, load.placed = step, {}, 0
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
            return None
        path = args[0] if args else kwargs.get("filename", "?")
        while isinstance(path, (list, tuple)):
            path = path[0]
        number = load.opened.setdefault(str(path), len(load.opened) + 1)
        load.agent.progress_step(
            load.shards, number, total=load.files, label=os.path.basename(str(path))
        )
        return None

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
        if now - load.told_ns < PROGRESS_EVERY_NS or load.thread != threading.get_ident():
            return
        load.told_ns = now
        if load.parameters is None:
            load.parameters = load.agent.begin_step("parameters", deadline_kind="load")
        load.agent.progress_step(load.parameters, load.placed, label=f"{load.placed} placed")
