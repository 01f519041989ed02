"""The actors of `distwatch up` in a Ray cluster: one on each node, and the run actor with the roots.

They only place observers and name roots. The observers' events go over the link, from process to
process, even while Ray itself is unhealthy. No actor holds state that its successor cannot find again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import msgspec

from distwatch.observer.cluster.node_keeper import KEEP_EVERY_S, DirectorySilent, NodeKeeper
from distwatch.observer.cluster.ray_placing import (
    NAMESPACE,
    NODE_ACTOR,
    RUN_ACTOR,
    NodeActors,
    Pause,
    cause_of,
    head_node,
    is_stopped,
    place,
)
from distwatch.observer.cluster.root_registry import RAY, Card
from distwatch.observer.cluster.roots import Roots
from distwatch.observer.link.root_address import RootAddress
from distwatch.runfolder import RunFolder, host_name, require_safe_root
from distwatch.settings import run_root

ASK_WITHIN_S = 20.0
STATUS_WITHIN_S = 3.0
FIRST_WITHIN_S = 3.0
"""How long a node waits for a root that is being created: it asks again, and threads are few."""
log = logging.getLogger("distwatch.cluster")


class RunActor:
    """Keeps a root for every run of the cluster, and an actor on every node, including later ones."""

    def __init__(self, folders: str) -> None:
        """
        Args:
            folders: DISTWATCH_DIR of the process that placed it; '': each node's own, or the default.
        """
        import ray

        context = ray.get_runtime_context()
        self._cluster = str(context.gcs_address)
        root = _require_root()
        here = RootAddress(ray.util.get_node_ip_address(), 0)
        self._roots = Roots(root, here, self._cluster, RAY)
        self._placed = NodeActors(lambda node: place_node_actor(node, folders))
        threading.Thread(target=self._keep_placed, name="distwatch placing", daemon=True).start()

    def roots_of(self, runs: dict[str, int], now_ns: int = 0) -> dict[str, Any]:
        """All cards, and the problems with these runs' roots; as plain data.

        Args:
            runs: as in `Roots.roots_of`.
            now_ns: the requester's wall clock.
        """
        ahead_ns = time.time_ns() - now_ns if now_ns else 0
        cards, problems = self._roots.roots_of(runs, ahead_ns=ahead_ns, within_s=FIRST_WITHIN_S)
        told = {"cards": msgspec.to_builtins(cards), "problems": problems}
        return {"cluster": self._cluster, **told}

    def table(self) -> dict[str, Any]:
        """The cluster's nodes with their actors' answers, and the runs with their roots."""
        import ray

        asked = {}
        for node in ray.nodes():
            try:
                actor = ray.get_actor(NODE_ACTOR + node["NodeID"], namespace=NAMESPACE)
                asked[node["NodeID"]] = actor.status.remote()
            except ValueError:
                continue
        ready, _ = ray.wait(
            list(asked.values()), num_returns=len(asked), timeout=STATUS_WITHIN_S
        ) if asked else ([], [])  # fmt: skip
        why = self._placed.why
        nodes = [
            _row(node, asked.get(node["NodeID"]), ready, why.get(node["NodeID"], ""))
            for node in ray.nodes()
        ]
        runs = {name: {"place": card.place, "host": card.host, "since_ns": card.since_ns}
                for name, card in self._roots.cards.items()}  # fmt: skip
        return {"cluster": self._cluster, "root_host": host_name(), "nodes": nodes, "runs": runs}

    def _keep_placed(self) -> None:
        import ray

        while True:
            time.sleep(KEEP_EVERY_S)
            try:
                if not is_stopped():
                    self._placed.keep({node["NodeID"] for node in ray.nodes() if node["Alive"]})
            except Exception as error:
                # A node may have gone, or the GCS may not answer: the next round may succeed.
                log.warning("could not list the cluster's nodes: %s", cause_of(error))


class NodeActor:
    """Links the observers of this Ray node's runs to their roots."""

    def __init__(self, folders: str) -> None:
        directory = RunActorDirectory(folders)
        self._keeper = NodeKeeper(_require_root(), directory, _is_of_this_raylet)
        self._failed = ""
        threading.Thread(target=self._keep, name="distwatch keeping", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """Host name, pid, and the part of each run's observer."""
        return {
            "host": host_name(),
            "pid": os.getpid(),
            "runs": dict(self._keeper.told),
            "failed": self._failed,
        }

    def _keep(self) -> None:
        while True:
            try:
                self._keeper.keep()
                self._failed = ""
            except Exception as error:
                self._failed = f"{type(error).__name__}: {error}"[:300]
                log.warning("a round failed: %s", self._failed)
            time.sleep(KEEP_EVERY_S)


class RunActorDirectory:
    """Asks the run actor, and places it again if it is gone for good.

    Attributes:
        cluster: the run actor's name for it: nodes may know the head by another name.
    """

    def __init__(self, folders: str) -> None:
        import ray

        self._folders = folders
        self._pause = Pause()
        self._why = "there is none"
        self.cluster = str(ray.get_runtime_context().gcs_address)

    def roots_of(self, runs: dict[str, int]) -> tuple[dict[str, Card], dict[str, str]]:
        """As in `Directory`."""
        import ray

        try:
            asked = self._run_actor().roots_of.remote(runs, time.time_ns())
            told = ray.get(asked, timeout=ASK_WITHIN_S)
            cards = msgspec.convert(told["cards"], dict[str, Card])
        except (ray.exceptions.RayError, ValueError, OSError) as error:
            self._why = cause_of(error)
            raise DirectorySilent(f"the run actor does not answer: {self._why}") from error
        self._pause = Pause()
        self.cluster = str(told["cluster"])
        return cards, dict(told["problems"])

    def _run_actor(self) -> Any:
        """The run actor; raises DirectorySilent if it is gone and must not be placed now."""
        import ray

        try:
            return ray.get_actor(RUN_ACTOR, namespace=NAMESPACE)
        except ValueError:
            if is_stopped():
                raise DirectorySilent("`distwatch up --ray --stop` was run") from None
            if not self._pause.is_over:
                raise DirectorySilent(f"the run actor is gone: {self._why}") from None
        self._pause.begin()
        return place_run_actor(self._folders)


def place_run_actor(folders: str) -> Any:
    """The cluster's run actor; created on the head node if there is none."""
    return place(RunActor, RUN_ACTOR, head_node(), folders, concurrency=32)


def place_node_actor(node_id: str, folders: str) -> Any:
    """A node's actor; created if there is none."""
    return place(NodeActor, NODE_ACTOR + node_id, node_id, folders, concurrency=4)


def _require_root() -> str:
    """This node's root of run folders; raises OSError if it is not usable."""
    root = run_root(os.environ)
    try:
        require_safe_root(root)
    except OSError as error:
        raise OSError(f"DISTWATCH_DIR={root} on {host_name()} cannot be used: {error}") from error
    return root


def _is_of_this_raylet(folder: RunFolder) -> bool:
    """Several Ray nodes may share a machine, and several clusters."""
    raylet = os.environ.get("RAY_RAYLET_PID", "")
    return any(start.get("RAY_RAYLET_PID") == raylet for start in folder.starts())


def _row(node: dict[str, Any], asked: Any, ready: list[Any], why: str) -> dict[str, Any]:
    """A node's row; `why` is used if its actor does not answer."""
    import ray

    row = {"node_id": node["NodeID"], "address": node["NodeManagerAddress"], "alive": node["Alive"]}
    if not node["Alive"]:
        return {**row, "why": "Ray reports it dead"}
    if asked is None:
        return {**row, "why": why or "its actor is not placed yet"}
    if asked not in ready:
        return {**row, "why": why or "its actor does not answer"}
    try:
        told = ray.get(asked)
    except ray.exceptions.RayError as error:
        return {**row, "why": cause_of(error)}
    failed = f"its last round failed: {told['failed']}" if told["failed"] else ""
    return {**row, **told, **({"why": failed} if failed else {})}
