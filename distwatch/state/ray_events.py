"""What a Ray cluster says of a job's actors, nodes and placement groups, as an observer read it.

Written when it changed; `host` is the observer's, and times are of that host's clock. Of an actor's
environment nothing is kept but its rank and the world's size.
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
"""Not dead · ended by itself in order · `ray.kill` · nobody refers to it any more · its owner, mostly
the driver, has ended · its node died · its worker process died · its `__init__` raised · its runtime_env
could not be made · can run nowhere · Ray's memory monitor ended it."""
RAY = "Ray"
"""What an observer has not observed where it cannot read the cluster's tables."""
IN_ORDER: tuple[DeathCause, ...] = ("exited", "killed_by_ray", "released", "owner_died")
"""Ends that somebody wanted."""


class RayActorSeen(Bounded, Event, frozen=True, kw_only=True):
    """One actor, as the cluster's table has it."""

    host: str
    actor_id: str
    job_id: str
    name: str = ""
    class_name: str = ""
    state: str = ""
    """DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING or DEAD, or a newer Ray's word."""
    since_ns: int = 0
    """When this observer first saw it in this state, on this worker."""
    worker_id: str = ""
    """Of the worker it was placed on last; empty: on none yet."""
    node_id: str = ""
    pid: int = 0
    global_rank: int | None = None
    world_size: int | None = None
    restarts: int = 0
    restarts_allowed: int = 0
    """-1: as often as needed."""
    ends: tuple[str, ...] = ()
    """How Ray says that its last workers ended, the newest last; a bounded number."""
    needs: dict[str, Finite] = {}
    placement_group: str = ""
    death: DeathCause = ""
    death_text: str = ""
    """Ray's own words for it, cut."""

    @property
    def is_routine(self) -> bool:
        """Whether all is well with it."""
        return self.state == "ALIVE" and not self.restarts

    @property
    def waits(self) -> bool:
        """Whether it has no worker: it waits to be placed, or placed again."""
        return not self.worker_id and self.state not in ("ALIVE", "DEAD")

    @property
    def is_placed(self) -> bool:
        """Whether it lives on a worker, be it still in its `__init__`."""
        return bool(self.worker_id) and self.state != "DEAD"

    @property
    def failed(self) -> bool:
        """Whether it is dead by what nobody wanted."""
        return self.state == "DEAD" and self.death not in IN_ORDER


class RayNodeSeen(Event, frozen=True, kw_only=True):
    """One node: what it has, what of that is free, and whether it lives."""

    is_routine = True

    host: str
    node_id: str
    address: str = ""
    host_name: str = ""
    alive: bool = True
    death_text: str = ""
    total: dict[str, Finite] = {}
    """CPU, GPU, memory and what the cluster's owner named; not what Ray keeps for itself."""
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
    """Ray's last word on placing it: QUEUED, NO_RESOURCES, INFEASIBLE, FINISHED, …"""
    since_ns: int = 0
    """When this observer first saw it in this state."""
    strategy: str = ""
    bundles: tuple[dict[str, Finite], ...] = ()

    @property
    def waits(self) -> bool:
        """Whether it has not got all that it asks for."""
        return self.state in ("PENDING", "RESCHEDULING")


class RayJobSeen(Event, frozen=True, kw_only=True):
    """One job of the cluster, and its driver."""

    host: str
    job_id: str
    driver_pid: int = 0
    driver_node: str = ""
    ended: bool = False


class RayLooked(Event, frozen=True, kw_only=True):
    """The cluster's tables were read: what was not said anew since then still held."""

    is_routine = True

    host: str
    address: str
    """Of the cluster's control store (GCS)."""
    actors: int = 0
    """How many actors of the job there are, also where not all are told."""
