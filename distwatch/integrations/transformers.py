"""transformers: `from_pretrained` as steps with progress, for 4.57 and 5.x.

Each module is hooked at its import; names that a version lacks are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_arguments import read_arguments
from distwatch.integrations.load_hooks import (
    Counted,
    FileOpened,
    Phase,
    TensorPlaced,
    TensorRead,
    end_with,
    hook_function,
    hook_method,
)
from distwatch.integrations.loads import Load, begin_load, current_load, forget_loads
from distwatch.integrations.registry import NotApplicable

TENSORS_KNOWN = 20_000
"""The most tensors with a known file, so that memory does not grow with the model."""
_MODEL_PHASES = {
    "_finalize_model_loading": "finalize",
    "tie_weights": "tie",
    "load_adapter": "adapter",
    "prepare_distribute_model": "tensor parallel mesh",
}
_MODULE_PHASES = {
    "resolve_revision": "revision",
    "_get_resolved_checkpoint_files": "files",
    "_get_device_map": "device map",
    "dispatch_model": "dispatch",
    "accelerate_dispatch": "dispatch",
    "caching_allocator_warmup": "allocator warm-up",
    "initialize_tensor_parallelism": "tensor parallel mesh",
}
_OPENS = ("safe_open", "load_shard_file", "load_state_dict")
# Functions that place a tensor: module, function, and the tensor's position and name.
_PLACES = (
    ("transformers.core_model_loading", "set_param_for_module", 2, "param_value"),
    ("transformers.core_model_loading", "offload_and_maybe_resave_param", 1, "param"),
    ("transformers.modeling_utils", "_load_parameter_into_model", 2, "tensor"),
    ("transformers.modeling_utils", "offload_weight", 0, "weight"),
    ("transformers.modeling_utils", "shard_and_distribute_module", 1, "param"),
)


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks that module of transformers."""
    return _HOOKS[module.__name__](module, patches)


def _hook_config(module: ModuleType, patches: PatchSet) -> str:
    """The config is read before any model class is imported, possibly from the hub."""
    # The class has different names in 5.x and 4.x.
    owner = getattr(module, "PreTrainedConfig", None) or getattr(module, "PretrainedConfig", None)
    if owner is None or not hook_method(patches, owner, "get_config_dict", Phase("config")):
        raise NotApplicable("no PreTrainedConfig.get_config_dict")
    return ""


def _hook_auto(module: ModuleType, patches: PatchSet) -> str:
    """An Auto class's `from_pretrained` reads the config before it calls a model class."""
    hook, owner = "Auto from_pretrained", module._BaseAutoModelClass
    patches.observe(hook, owner, "from_pretrained", FromPretrained(adopts=True))
    hook_function(patches, module, "resolve_revision", Phase("revision"))
    hook_function(patches, module, "find_adapter_config_file", Phase("adapter lookup"))
    return ""


def _hook_models(module: ModuleType, patches: PatchSet) -> str:
    model = module.PreTrainedModel
    patches.when_undone(forget_loads)
    hook_method(patches, model, "from_pretrained", FromPretrained())
    hook_method(patches, model, "_load_pretrained_model", Shards())
    hook_method(patches, model, "get_init_context", Building())
    for name, phase in _MODEL_PHASES.items():
        hook_method(patches, model, name, Phase(phase))
    for name, phase in _MODULE_PHASES.items():
        hook_function(patches, module, name, Phase(phase))
    opens = [hook_function(patches, module, name, FileOpened()) for name in _OPENS]
    absent = [] if any(opens) else ["shards"]
    _hook_tensors(patches, module)
    quantizers = sys.modules.get("transformers.quantizers.base")
    if (owner := getattr(quantizers, "HfQuantizer", None)) is not None:
        for name in ("preprocess_model", "postprocess_model"):
            hook_method(patches, owner, name, Phase("quantizer"))
    generation = sys.modules.get("transformers.generation.configuration_utils")
    config = getattr(generation, "GenerationConfig", None)
    if config is None or not hook_method(
        patches, config, "from_pretrained", GenerationConfigRead()
    ):
        absent.append("generation config")
    return f"not seen in this version: {', '.join(absent)}" if absent else ""


_HOOKS = {
    "transformers.configuration_utils": _hook_config,
    "transformers.modeling_utils": _hook_models,
    "transformers.models.auto.auto_factory": _hook_auto,
}


def _hook_tensors(patches: PatchSet, module: ModuleType) -> None:
    for place, name, position, parameter in _PLACES:
        hook_function(patches, sys.modules.get(place), name, TensorPlaced(position, parameter))
    loading = sys.modules.get("transformers.core_model_loading")
    hook_function(patches, loading, "_materialize_copy", TensorRead())
    hook_function(patches, module, "convert_and_load_state_dict_in_model", TensorsNamed())


class FromPretrained(CallHook):
    """The whole call: a model class's, or an Auto class's around it."""

    def __init__(self, *, adopts: bool = False) -> None:
        self._adopts = adopts

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = argument(args, kwargs, 1, "pretrained_model_name_or_path")
        arguments = read_arguments(given, kwargs)
        return begin_load("from_pretrained", arguments, adopts=self._adopts)

    def after(self, token: Load, result: Any, error: BaseException | None) -> None:
        model = result[0] if isinstance(result, tuple) and result else result
        end_with(token, model, error)


class Building(CallHook):
    """`get_init_context` runs right before the model's class is called, on meta."""

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        load = current_load()
        if load is not None and load.is_mine and error is None:
            load.begin_building()


class Shards(Counted):
    """The reading of the checkpoint's files."""

    def __init__(self) -> None:
        super().__init__("shards")

    def files(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        for value in (kwargs.get("checkpoint_files"), *args):
            if isinstance(value, (list, tuple)) and value:
                return len(value) if all(isinstance(file, str) for file in value) else None
        return None

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token = super().before(args, kwargs)
        if token is not None:
            load, _ = token
            metadata = _sharded_metadata(args, kwargs)
            names = metadata.get("weight_map")
            load.bytes_total = _total_size(metadata)
            load.parameters_total = len(names) if isinstance(names, Mapping) else None
        return token


class TensorsNamed(CallHook):
    """5.x reads tensors in worker threads; from this call on the file of each tensor is known.

    The files are forgotten at the end of the shards phase.
    """

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        load = current_load()
        tensors = argument(args, kwargs, 1, "state_dict")
        if load is None or load.counting is None or not isinstance(tensors, dict):
            return
        load.parameters_total = len(tensors)
        weight_map = _sharded_metadata(args, kwargs).get("weight_map")
        if len(tensors) > TENSORS_KNOWN:
            return
        paths = {path.rpartition("/")[2]: path for path in load.opened}
        for name, tensor in tensors.items():
            if isinstance(weight_map, Mapping):
                path = paths.get(str(weight_map.get(name)), "")
            else:
                path = next(iter(paths.values()), "") if len(paths) == 1 else ""
            if path:
                load.file_of[id(tensor)] = path


class GenerationConfigRead(Phase):
    """The generation config: whether the model got the checkpoint's own one."""

    def __init__(self) -> None:
        super().__init__("generation config")

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token = super().before(args, kwargs)
        if token is None:
            return None
        asks_nobody = bool(kwargs.get("local_files_only")) or _is_offline()
        return (*token, bool(kwargs.get("_from_model_config")), asks_nobody)

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        load, step, is_substitute, asks_nobody = token
        super().after((load, step), result, error)
        if is_substitute:
            return  # made from the model's config, because the checkpoint's own could not be read
        # A file that is missing offline may not exist in the repository either.
        missing = asks_nobody or "does not appear to have a file" in str(error)
        load.generation = "loaded" if error is None else "default" if missing else "lost"


def _is_offline() -> bool:
    return bool(getattr(sys.modules.get("huggingface_hub.constants"), "HF_HUB_OFFLINE", False))


def _sharded_metadata(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
    """The content of the checkpoint's index; empty where it has none. 5.x hides it in `load_config`."""
    for value in (*kwargs.values(), *args):
        found = getattr(value, "sharded_metadata", value)
        if isinstance(found, Mapping) and "weight_map" in found:
            return found
    return {}


def _total_size(metadata: Mapping[str, Any]) -> int | None:
    size = metadata.get("total_size")
    if size is None and isinstance(metadata.get("metadata"), Mapping):
        size = metadata["metadata"].get("total_size")
    return int(size) if isinstance(size, (int, float)) and size > 0 else None
