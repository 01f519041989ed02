"""A job's actors, nodes and placement groups in a Ray cluster, as an observer read them.

Written when they change; `host` is the observer's, and times are by that host's clock. Of an actor's
environment only its rank and the world size are kept.
"""

from __future__ import annotations

from typing import Literal

from distwatch.state.bounds import Bounded, Finite
from distwatch.state.event import Event

DeathCause = Literal[
    "",
    "exited",
    "killed_by_ray",
    "released",
    "owner_died",
    "node_died",
    "worker_died",
    "init_failed",
    "environment_failed",
    "unschedulable",
    "out_of_memory",
]
"""Not dead · exited by itself in an orderly way · `ray.kill` · no references left · its owner (usually
the driver) ended · its node died · its worker process died · its `__init__` raised · its runtime_env
failed · cannot be scheduled on any node · Ray's memory monitor killed it."""
RAY = "Ray"
"""The subject of `NotObserved` where an observer cannot read the cluster's tables."""
IN_ORDER: tuple[DeathCause, ...] = ("exited", "killed_by_ray", "released", "owner_died")
"""Intended ends."""


class RayActorSeen(Bounded, Event, frozen=True, kw_only=True):
    """One actor in the cluster's table."""

    host: str
    actor_id: str
    job_id: str
    name: str = ""
    class_name: str = ""
    state: str = ""
    """DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING or DEAD, or a newer Ray's word."""
    since_ns: int = 0
    """When this observer first saw it in this state and on this worker."""
    worker_id: str = ""
    """The worker it was last placed on; empty: none yet."""
    node_id: str = ""
    pid: int = 0
    global_rank: int | None = None
    world_size: int | None = None
    restarts: int = 0
    restarts_allowed: int = 0
    """-1: as often as needed."""
    ends: tuple[str, ...] = ()
    """Ray's reasons for the ends of its last workers, the newest last; a bounded number."""
    needs: dict[str, Finite] = {}
    placement_group: str = ""
    death: DeathCause = ""
    death_text: str = ""
    """Ray's own message about it, truncated."""

    @property
    def is_routine(self) -> bool:
        """Whether it is alive and was never restarted."""
        return self.state == "ALIVE" and not self.restarts

    @property
    def waits(self) -> bool:
        """Whether it has no worker and waits to be placed, for the first time or again."""
        return not self.worker_id and self.state not in ("ALIVE", "DEAD")

    @property
    def is_placed(self) -> bool:
        """Whether it is on a worker, possibly still in its `__init__`."""
        return bool(self.worker_id) and self.state != "DEAD"

    @property
    def failed(self) -> bool:
        """Whether it died unintentionally."""
        return self.state == "DEAD" and self.death not in IN_ORDER


class RayNodeSeen(Event, frozen=True, kw_only=True):
    """One node: its resources, the free part of them, and whether it is alive."""

    is_routine = True

    host: str
    node_id: str
    address: str = ""
    host_name: str = ""
    alive: bool = True
    death_text: str = ""
    total: dict[str, Finite] = {}
    """CPU, GPU, memory and custom resources; not Ray's internal ones."""
    free: dict[str, Finite] = {}


class RayGroupSeen(Event, frozen=True, kw_only=True):
    """One placement group."""

    host: str
    group_id: str
    job_id: str
    name: str = ""
    state: str = ""
    """PENDING, PREPARED, CREATED, REMOVED or RESCHEDULING."""
    scheduling: str = ""
    """Ray's latest scheduling state: QUEUED, NO_RESOURCES, INFEASIBLE, FINISHED, …"""
    since_ns: int = 0
    """When this observer first saw it in this state."""
    strategy: str = ""
    bundles: tuple[dict[str, Finite], ...] = ()

    @property
    def waits(self) -> bool:
        """Whether it is still waiting for resources."""
        return self.state in ("PENDING", "RESCHEDULING")


class RayJobSeen(Event, frozen=True, kw_only=True):
    """One job of the cluster, and its driver."""

    host: str
    job_id: str
    driver_pid: int = 0
    driver_node: str = ""
    ended: bool = False


class RayLooked(Event, frozen=True, kw_only=True):
    """The cluster's tables were read: rows without a newer event had not changed."""

    is_routine = True

    host: str
    address: str
    """The address of the cluster's control store (GCS)."""
    actors: int = 0
    """The job's number of actors, even where not all of them are reported."""
