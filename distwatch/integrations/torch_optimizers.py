"""torch.optim: the steps of an optimizer, by torch's own hook for all of them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.agent import core
from distwatch.agent.guard import guard
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import NotApplicable


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Registers with `torch.optim.optimizer`."""
    register = getattr(module, "register_optimizer_step_post_hook", None)
    if register is None:
        raise NotApplicable("this torch has no hook for all optimizers")
    handle = register(_stepped)
    patches.when_undone(handle.remove)
    return ""


def _stepped(optimizer: Any, _args: Any, _kwargs: Any) -> None:
    agent = core.current()
    if agent is not None:
        guard("optimizer steps", agent.training.count, optimizer)
