"""Ray: this worker's ids in its cluster, read by the agent's thread.

It never asks for the task's id or name: Ray aborts a prestarted worker that does.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from distwatch.agent import core
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import NotApplicable
from distwatch.state.events import WorkerPlaced

_TITLE_KEPT = 120
_LOOKS = 240
"""For two minutes: the actor's class is known once its __init__ has begun."""


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Patches nothing: from now on, an agent here asks Ray's worker for its ids."""
    if not hasattr(module, "global_worker"):
        raise NotApplicable("this version of Ray has no ray._private.worker.global_worker")
    core.when_started(_watch)
    patches.when_undone(_stop_watching)
    return ""


def _watch(agent: core.Agent) -> None:
    agent.worker_source = WorkerLook().look


def _stop_watching() -> None:
    if agent := core.current():
        agent.worker_source = None


class WorkerLook:
    """Asks Ray until the actor is known: a worker becomes one actor and stays that actor.

    It asks no longer than needed, and never in a driver: a call during Ray's shutdown ends the process.
    """

    def __init__(self) -> None:
        self._placed: WorkerPlaced | None = None
        self._looks = 0

    def look(self) -> tuple[WorkerPlaced | None, str]:
        """This process's ids in Ray (None for other processes) and its title."""
        module = sys.modules.get("ray._private.worker")
        if module is None:
            return None, ""
        is_worker = module.global_worker.mode == module.WORKER_MODE
        known = self._placed is not None and self._placed.actor_class
        if is_worker and not known and self._looks < _LOOKS:
            self._looks += 1
            self._placed = _placed(module.global_worker) or self._placed
        return self._placed, process_title()


def process_title() -> str:
    """Ray's title of its worker: `ray::Trainer.fit`; '' for a process with a title of its own."""
    with open("/proc/self/cmdline", "rb") as file:
        title = file.read(_TITLE_KEPT).partition(b"\0")[0].decode("utf-8", "replace")
    return title if title.startswith("ray::") else ""


def _placed(worker: Any) -> WorkerPlaced | None:
    if not worker.connected:
        return None
    try:
        actor = "" if worker.actor_id.is_nil() else worker.actor_id.hex()
        made = worker.actors.get(worker.actor_id) if actor else None
        return WorkerPlaced(
            job_id=worker.current_job_id.hex(),
            node_id=worker.current_node_id.hex(),
            worker_id=worker.worker_id.hex()
            if hasattr(worker.worker_id, "hex")
            else str(worker.worker_id),
            actor_id=actor,
            actor_name=(worker.actor_name or "") if actor else "",
            actor_class=type(made).__name__ if made is not None else "",
        )
    except AttributeError:  # it is disconnecting, or this version uses other names
        return None
