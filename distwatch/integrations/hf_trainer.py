"""HF Trainer: its global step and epoch, which count on when a run is resumed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.agent import core
from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.patch import PatchSet


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `transformers.trainer_callback`."""
    handler = module.CallbackHandler
    for name in ("on_step_begin", "on_step_end"):
        patches.observe(f"CallbackHandler.{name}", handler, name, Stepped())
    return ""


class Stepped(CallHook):
    """`CallbackHandler.on_step_end(args, state, control)`: called once for each optimizer step."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = core.current()
        state = argument(args, kwargs, 2, "state")
        if agent is not None and state is not None:
            epoch = state.epoch
            agent.training.tell(int(state.global_step), None if epoch is None else float(epoch))
