"""transformers' Auto classes: their `from_pretrained` reads the config before any model class is."""

from __future__ import annotations

from types import ModuleType

from distwatch.hooks.call_hook import observe_method
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_hooks import Phase, hook_function
from distwatch.integrations.transformers import FromPretrained


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `transformers.models.auto.auto_factory`."""
    owner = module._BaseAutoModelClass
    observer = FromPretrained(adopts=True)
    hook = observe_method("Auto from_pretrained", vars(owner)["from_pretrained"], observer)
    patches.replace(owner, "from_pretrained", hook)
    hook_function(patches, module, "resolve_revision", Phase("revision"))
    hook_function(patches, module, "find_adapter_config_file", Phase("adapter lookup"))
    return ""


def undo() -> None:
    """Nothing beyond the patches."""
