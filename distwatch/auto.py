"""`import distwatch.auto`: the one line that turns distwatch on in a process.

Writes a start record and arms the hooks; imports neither torch nor anything heavy. The agent starts
when a rank loads torch.distributed, or at the first hooked call.
"""

from __future__ import annotations

import os
import sys

from distwatch.integrations import REGISTRY
from distwatch.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, TracebackType

_activated_pid: int | None = None
_undo_excepthook: Callable[[], None] | None = None


def activate() -> None:
    """Turns distwatch on in this process; idempotent, and never raises."""
    global _activated_pid
    settings = read_settings()
    if settings.enabled is False or _activated_pid == os.getpid():
        return
    _activated_pid = os.getpid()
    try:
        for complaint in settings.complaints:
            _say(f"{complaint}; using the default")
        from distwatch.agent.entry import enter_run, is_ray_service, is_ray_worker, role_of

        argv = sys.orig_argv
        role = role_of(argv, os.environ)
        if role == "launcher" or is_ray_service(argv):
            return  # a launcher is observed from outside; its ranks run distwatch
        # A Ray worker learns its run's name a moment later, in its setup hook.
        if not is_ray_worker(argv):
            if role == "rank":
                enter_run(os.environ)
            _stand_by(role)
        _size_the_recorder()
        _chain_excepthook()
        _arm()
    except Exception as error:
        _say(f"off in process {os.getpid()}: {error}")


def _stand_by(role: str) -> None:
    from distwatch.agent.standby import stand_by

    # The trackers of multiprocessing end with the program that started them.
    if not any("multiprocessing.resource_tracker" in one for one in sys.orig_argv):
        stand_by(follow_forks=role == "other")


def deactivate() -> None:
    """Takes the hooks out again, and the agent, of a process that goes on. Not for the agent's thread."""
    global _activated_pid
    _activated_pid = None
    from distwatch.agent import core
    from distwatch.agent.standby import stand_down
    from distwatch.hooks.imports import forget_all
    from distwatch.integrations import registry

    stand_down()
    forget_all()
    registry.undo_all()
    if _undo_excepthook is not None:
        _undo_excepthook()
    if (agent := core.current()) is not None:
        agent.leave()


def _say(text: str) -> None:
    # This imports the module re, which few processes need so early.
    from distwatch.visible_text import say

    say(text)


def _size_the_recorder() -> None:
    # torch 2.8 to 2.12 have a flight recorder for gloo, but of size 0 unless this variable is set.
    names = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
    if "torch" not in sys.modules and not any(name in os.environ for name in names):
        os.environ["TORCH_FR_BUFFER_SIZE"] = "2000"


def _arm() -> None:
    from distwatch.hooks.imports import when_imported

    # The registry imports msgspec, so it is loaded only with the first hooked library.
    for spec in REGISTRY:
        if spec.arms:
            when_imported(spec.trigger, _library_imported)


def _library_imported(module: ModuleType) -> None:
    from distwatch.agent import core
    from distwatch.agent.entry import enter_run
    from distwatch.integrations import registry

    registry.arm(read_settings())
    torch_distributed = module.__name__.startswith("torch.")
    if torch_distributed and core.current() is None and enter_run(os.environ)[2] == "rank":
        registry.running_agent()


def _chain_excepthook() -> None:
    previous = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        # After Ctrl-C, Python ends itself by SIGINT, unless source is executed before that
        # (https://github.com/python/cpython/pull/11862, from 3.8 on). Importing the agent would do so,
        # and without an agent there is nothing to journal.
        first = "distwatch.agent.core" not in sys.modules
        ordinary = (SystemExit, KeyboardInterrupt) if first else SystemExit
        try:
            if _activated_pid == os.getpid() and not issubclass(kind, ordinary):
                from distwatch.agent.uncaught import tell_uncaught

                tell_uncaught(error, traceback)
        except Exception as failure:
            _say(f"the exception was not journaled: {failure}")
        previous(kind, error, traceback)

    def undo() -> None:
        # One that was chained later calls ours, which must stay.
        if sys.excepthook is excepthook:
            sys.excepthook = previous

    global _undo_excepthook
    _undo_excepthook = undo
    sys.excepthook = excepthook


activate()
