"""Lightning: its global step and epoch, which count on when a run is resumed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.agent import core
from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.patch import PatchSet


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `pytorch_lightning.trainer.call`, or the same in `lightning.pytorch`."""
    patches.observe("_call_callback_hooks", module, "_call_callback_hooks", BatchStarted())
    return ""


class BatchStarted(CallHook):
    """`_call_callback_hooks(trainer, hook_name, …)`: how the loops tell callbacks of all that happens."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = core.current()
        if agent is None or argument(args, kwargs, 1, "hook_name") != "on_train_batch_start":
            return
        trainer = argument(args, kwargs, 0, "trainer")
        agent.training.tell(int(trainer.global_step), float(trainer.current_epoch))
