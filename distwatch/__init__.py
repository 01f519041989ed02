"""distwatch: says within seconds why a distributed PyTorch job hangs."""

from __future__ import annotations

# Every process of a job imports this: typing and collections.abc take as long as all of the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from distwatch.agent.training import step
    from distwatch.errors import (
        AlreadyInitialized,
        AttachDenied,
        DistwatchError,
        InitFailed,
        InitTimeout,
        PlanInvalid,
    )
    from distwatch.integrations.sglang_runner import build_sglang_runner
    from distwatch.integrations.world import World, initialize
    from distwatch.loading import load
    from distwatch.preflight.environment import check
    from distwatch.snapshots import snapshot

__version__ = "0.1.0"
__all__ = [
    "AlreadyInitialized",
    "AttachDenied",
    "DistwatchError",
    "InitFailed",
    "InitTimeout",
    "PlanInvalid",
    "World",
    "build_sglang_runner",
    "check",
    "initialize",
    "load",
    "snapshot",
    "step",
]
_PLACES = {
    **dict.fromkeys(__all__[:6], "distwatch.errors"),
    **dict.fromkeys(("World", "initialize"), "distwatch.integrations.world"),
    "build_sglang_runner": "distwatch.integrations.sglang_runner",
    "check": "distwatch.preflight.environment",
    "load": "distwatch.loading",
    "snapshot": "distwatch.snapshots",
    "step": "distwatch.agent.training",
}


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", "ray"})


def __getattr__(name: str) -> Any:
    # Importing distwatch costs a job nothing: only what is used is loaded.
    import importlib

    if name == "ray":
        return importlib.import_module("distwatch.ray")
    if name not in _PLACES:
        raise AttributeError(f"module 'distwatch' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
