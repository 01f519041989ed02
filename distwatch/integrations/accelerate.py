"""accelerate: `load_checkpoint_and_dispatch` and `dispatch_model`, alone or inside a load.

`offload_state_dict` writes CPU weights into TMPDIR during the load and reads them all again
afterwards; that is a separate phase, without a progress bar.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_arguments import read_arguments
from distwatch.integrations.load_hooks import (
    PARTLY_HOOKED,
    Counted,
    FileOpened,
    Phase,
    TensorPlaced,
    end_with,
    hook_function,
)
from distwatch.integrations.loads import begin_load, current_load


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `accelerate.big_modeling`, and `accelerate.utils.modeling`, which it has imported."""
    modeling = sys.modules.get("accelerate.utils.modeling")
    offload = sys.modules.get("accelerate.utils.offload")
    # accelerate's own modules import these functions from each other.
    hook = functools.partial(hook_function, patches, rebinds=True)
    found = [
        hook(module, "load_checkpoint_and_dispatch", Whole("load_checkpoint_and_dispatch")),
        hook(module, "dispatch_model", Whole("dispatch_model")),
        hook(modeling, "load_checkpoint_in_model", Whole("load_checkpoint_in_model")),
        hook(modeling, "load_offloaded_weights", OffloadReread()),
        hook(modeling, "infer_auto_device_map", Phase("device map")),
        hook(modeling, "load_state_dict", FileOpened()),
        hook(modeling, "set_module_tensor_to_device", TensorPlaced(3, "value")),
        hook(offload, "load_offloaded_weight", FileOpened()),
        hook(offload, "offload_weight", TensorPlaced(0, "weight")),
    ]
    return "" if all(found) else PARTLY_HOOKED


class Whole(CallHook):
    """A call that loads or places a model; inside another load it is a phase of that load."""

    def __init__(self, name: str) -> None:
        self._name = name
        counted = name == "load_checkpoint_in_model"
        self._phase: Phase = Counted("shards") if counted else Phase("dispatch")

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outer = current_load()
        model = argument(args, kwargs, 0, "model")
        if outer is not None and outer.is_mine:
            phase = self._phase.before(args, kwargs)
            return (outer, phase, model) if phase is not None else None
        # The checkpoint, where there is one, is the second argument of each of them.
        given = argument(args, kwargs, 1, "checkpoint")
        checkpoint = "" if self._name == "dispatch_model" else given
        arguments = read_arguments(checkpoint, {"device_map": _device_map(args), **kwargs})
        load = begin_load(self._name, arguments)
        if load is not None and self._name == "load_checkpoint_in_model":
            load.begin_counting(load.step, None)
        return (load, None, model) if load is not None else None

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        load, phase, model = token
        if phase is not None:
            self._phase.after(phase, result, error)
        else:
            end_with(load, model if result is None else result, error)


def _device_map(args: tuple[Any, ...]) -> Any:
    return next((value for value in args[1:4] if isinstance(value, dict)), None)


class OffloadReread(Counted):
    """All CPU weights are read again from TMPDIR."""

    def __init__(self) -> None:
        super().__init__("offload re-read")

    def files(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        index = argument(args, kwargs, 1, "index")
        return len(index) if isinstance(index, dict) else None
