"""transformers' model configs: read before any model class is imported, from the hub perhaps."""

from __future__ import annotations

from types import ModuleType

from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_hooks import Phase, hook_method
from distwatch.integrations.registry import NotApplicable


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `transformers.configuration_utils`, whose class has one name in 5.x and another in 4.x."""
    owner = getattr(module, "PreTrainedConfig", None) or getattr(module, "PretrainedConfig", None)
    if owner is None or not hook_method(patches, owner, "get_config_dict", Phase("config")):
        raise NotApplicable("no PreTrainedConfig.get_config_dict")
    return ""


def undo() -> None:
    """Nothing beyond the patches."""
