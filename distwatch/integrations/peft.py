"""peft: adapters that are loaded onto a model."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_arguments import read_arguments
from distwatch.integrations.load_hooks import (
    PARTLY_HOOKED,
    Phase,
    end_with,
    hook_function,
    hook_method,
)
from distwatch.integrations.loads import Load, begin_load


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `peft.peft_model`."""
    hook_method(patches, module.PeftModel, "from_pretrained", AdapterLoaded())
    hook_method(patches, module.PeftModel, "load_adapter", Phase("adapter"))
    found = [
        hook_function(patches, module, "load_peft_weights", Phase("adapter weights")),
        hook_function(patches, module, "set_peft_model_state_dict", Phase("adapter placing")),
    ]
    return "" if all(found) else PARTLY_HOOKED


class AdapterLoaded(CallHook):
    """`PeftModel.from_pretrained(model, adapter)`."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = argument(args, kwargs, 2, "model_id")
        return begin_load("from_pretrained", read_arguments(given, kwargs))

    def after(self, token: Load, result: Any, error: BaseException | None) -> None:
        end_with(token, result, error)
