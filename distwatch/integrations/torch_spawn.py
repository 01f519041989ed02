"""torch.multiprocessing.spawn: it hands a rank's exception to the parent, and ends the rank with a bare code."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.agent.uncaught import tell_uncaught
from distwatch.hooks.call_hook import CallHook
from distwatch.hooks.patch import PatchSet


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `_wrap`, in which each started process calls the user's function."""
    patches.observe("spawn._wrap", module, "_wrap", _HandedOver())
    return ""


class _HandedOver(CallHook):
    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        raised = error.__context__ if isinstance(error, SystemExit) else None
        if raised is not None:
            tell_uncaught(raised, raised.__traceback__)
