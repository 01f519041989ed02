"""torch.multiprocessing.spawn: it hands a rank's exception to the parent, and ends the rank with a bare code."""

from __future__ import annotations

from types import ModuleType, TracebackType
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
        if error is not None and raised is not None and self._is_own(error.__traceback__):
            tell_uncaught(raised, raised.__traceback__)

    def _is_own(self, traceback: TracebackType | None) -> bool:
        """Whether `_wrap` itself leaves so: the user's function may handle an error and exit, too."""
        code = None
        while traceback is not None:
            code, traceback = traceback.tb_frame.f_code, traceback.tb_next
        return code is getattr(self.original, "__code__", None)
