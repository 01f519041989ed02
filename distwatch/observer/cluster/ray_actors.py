"""The actors of `distwatch up` in a Ray cluster: one a node, and the run actor that knows the roots.

They place and name; what the runs' observers see goes over the link, from process to process, and
so on while Ray itself is sick. Each holds no state that its successor does not find again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import msgspec

from distwatch.observer.cluster.cards import Card
from distwatch.observer.cluster.keeping import KEEP_EVERY_S, DirectorySilent, NodeKeeper
from distwatch.observer.cluster.roots import RootFailed, Roots
from distwatch.observer.link.place import Place
from distwatch.runfolder import RunFolder, host_name
from distwatch.settings import run_root

NAMESPACE = "distwatch"
RUN_ACTOR = "distwatch-run"
NODE_ACTOR = "distwatch-node-"
ASK_WITHIN_S = 20.0
STATUS_WITHIN_S = 3.0
_HEAD = "node:__internal_head__"
log = logging.getLogger("distwatch.cluster")


class RunActor:
    """Has a root for every run of the cluster, and an actor on every node, also on those to come."""

    def __init__(self, folders: str) -> None:
        """
        Args:
            folders: DISTWATCH_DIR of whoever placed it; '': each node's own, or the default.
        """
        import ray

        self._folders = folders
        context = ray.get_runtime_context()
        self._cluster = str(context.gcs_address)
        here = Place(ray.util.get_node_ip_address(), 0)
        self._roots = Roots(run_root(os.environ), here, self._cluster)
        self._ended = threading.Event()
        threading.Thread(target=self._keep_placed, name="distwatch placing", daemon=True).start()

    def roots_of(self, runs: dict[str, int]) -> dict[str, Any]:
        """All cards, and why one of these runs has no root; as plain data."""
        problems: dict[str, str] = {}
        for name, began_ns in runs.items():
            try:
                self._roots.root_of(name, began_ns)
            except RootFailed as error:
                problems[name] = str(error)
        return {"cards": msgspec.to_builtins(self._roots.cards), "problems": problems}

    def table(self) -> dict[str, Any]:
        """The cluster's nodes with what their actors say, and the runs with their roots."""
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
        nodes = [_row(node, asked.get(node["NodeID"]), ready) for node in ray.nodes()]
        runs = {name: {"place": card.place, "host": card.host, "since_ns": card.since_ns}
                for name, card in self._roots.cards.items()}  # fmt: skip
        return {"cluster": self._cluster, "root_host": host_name(), "nodes": nodes, "runs": runs}

    def end(self) -> None:
        """Takes the nodes' actors away; the caller takes this one."""
        self._ended.set()
        import ray

        for node in ray.nodes():
            try:
                ray.kill(ray.get_actor(NODE_ACTOR + node["NodeID"], namespace=NAMESPACE))
            except ValueError:
                continue

    def _keep_placed(self) -> None:
        import ray

        placed: dict[str, Any] = {}
        while not self._ended.wait(KEEP_EVERY_S):
            try:
                alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
                placed = {node: actor for node, actor in placed.items() if node in alive}
                for node in alive - placed.keys():
                    if not self._ended.is_set():
                        placed[node] = place_node_actor(node, self._folders)
            except Exception as error:
                # A node that went meanwhile, a GCS that does not answer: the next round may do.
                log.warning("nodes are not looked at: %s", error)


class NodeActor:
    """Links the observers of this Ray node's runs to their roots."""

    def __init__(self, folders: str) -> None:
        directory = RunActorDirectory(folders)
        self._keeper = NodeKeeper(run_root(os.environ), directory, _is_of_this_raylet)
        self._failed = ""
        threading.Thread(target=self._keep, name="distwatch keeping", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """Host name, pid, and what each run's observer is."""
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
    """Asks the run actor, and places it anew where it is gone for good."""

    def __init__(self, folders: str) -> None:
        import ray

        self._folders = folders
        self.cluster = str(ray.get_runtime_context().gcs_address)

    def roots_of(self, runs: dict[str, int]) -> tuple[dict[str, Card], dict[str, str]]:
        """As `Directory` says."""
        import ray

        try:
            told = ray.get(
                place_run_actor(self._folders).roots_of.remote(runs), timeout=ASK_WITHIN_S
            )
            return msgspec.convert(told["cards"], dict[str, Card]), dict(told["problems"])
        except (ray.exceptions.RayError, ValueError, OSError) as error:
            first = str(error).strip().partition("\n")[0]
            raise DirectorySilent(f"the run actor does not answer: {first[:200]}") from error


def place_run_actor(folders: str) -> Any:
    """The cluster's run actor; made, on the head node, where there is none."""
    import ray

    try:
        return ray.get_actor(RUN_ACTOR, namespace=NAMESPACE)
    except ValueError:
        return _place(RunActor, RUN_ACTOR, _head(), folders, concurrency=32)


def place_node_actor(node_id: str, folders: str) -> Any:
    """A node's actor; made where there is none."""
    return _place(NodeActor, NODE_ACTOR + node_id, node_id, folders, concurrency=4)


def _place(kind: type, name: str, node_id: str, folders: str, *, concurrency: int) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A token stands in no runtime_env, which everybody may read.
    env_vars = {"DISTWATCH": "0", **({"DISTWATCH_DIR": folders} if folders else {})}
    return (
        ray.remote(kind)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=concurrency,
            # Where its folders are: what restarts elsewhere would begin anew.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            runtime_env={"env_vars": env_vars},
        )
        .remote(folders)
    )


def _head() -> str:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    heads = [node for node in alive if _HEAD in node["Resources"]]
    return str((heads or alive)[0]["NodeID"])


def _is_of_this_raylet(folder: RunFolder) -> bool:
    """Several Ray nodes may share a machine, and several clusters."""
    raylet = os.environ.get("RAY_RAYLET_PID", "")
    return any(start.get("RAY_RAYLET_PID") == raylet for start in folder.starts())


def _row(node: dict[str, Any], asked: Any, ready: list[Any]) -> dict[str, Any]:
    import ray

    row = {"node_id": node["NodeID"], "address": node["NodeManagerAddress"], "alive": node["Alive"]}
    if not node["Alive"]:
        return {**row, "why": "Ray says that it is dead"}
    if asked is None:
        return {**row, "why": "its actor is not placed yet"}
    if asked not in ready:
        return {**row, "why": "its actor does not answer"}
    try:
        return {**row, **ray.get(asked)}
    except ray.exceptions.RayError as error:
        return {**row, "why": str(error).strip().partition("\n")[0][:200]}
