"""Finds the Ray jobs of this machine by the pid of a worker or a driver, or by an actor's name.

It asks the clusters whose raylets run here, and does not need Ray's dashboard.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from distwatch.launch import run_of_ray_job
from distwatch.probes.ray_cluster import ClusterUnreadable, Tables, read_tables
from distwatch.probes.raylets import Raylet, clusters_here, has_loaded_ray, raylet_of
from distwatch.state.ray_events import RayActorSeen

_WITHIN_S = 8.0


class RayJob(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a Ray job on this machine.

    Attributes:
        raylets: the raylets of its cluster.
        pids: the workers of its actors.
        driver: the driver's pid; 0 where it is on another machine.
    """

    raylets: list[Raylet]
    job_id: str
    pids: tuple[int, ...] = ()
    driver: int = 0

    @property
    def run_name(self) -> str:
        """The name of its run where the user gave none."""
        return run_of_ray_job(self.job_id, self.raylets[0].session)


class NamedActor(msgspec.Struct, frozen=True, kw_only=True):
    """A living actor in a cluster of this machine.

    Attributes:
        pid: its worker's pid; 0 where it has none.
        place: where it is, for people.
    """

    job: RayJob
    pid: int
    place: str


def ray_job_of(pid: int) -> RayJob | None:
    """The Ray job of a worker or a driver; None where it is neither, or Ray does not answer."""
    own = raylet_of(pid)
    if own is not None:
        raylets = clusters_here().get(own.address, [own])
        tables = _read(raylets)
        job_id = next((one.job_id for one in _local(tables, raylets) if one.pid == pid), "")
        return _job(raylets, tables, job_id) if job_id else None
    for raylets in clusters_here().values() if has_loaded_ray(pid) else ():
        tables = _read(raylets, driver=pid)
        if tables.jobs:
            return _job(raylets, tables, tables.jobs[0].job_id)
    return None


def actors_named(name: str) -> list[NamedActor]:
    """The actors of that name that are not dead."""
    found = []
    for raylets in clusters_here().values():
        tables = _read(raylets, name=name)
        found += [
            NamedActor(
                job=_job(raylets, tables, actor.job_id),
                pid=actor.pid,
                place=_place(tables, actor),
            )
            for actor in tables.actors
            if actor.state != "DEAD"
        ]
    return found


def _read(raylets: list[Raylet], *, driver: int = 0, name: str = "") -> Tables:
    """A cluster's tables; empty where it does not answer: others may know the target."""
    try:
        return read_tables(raylets, driver=driver, name=name, within_s=_WITHIN_S)
    except ClusterUnreadable:
        return Tables()


def _job(raylets: list[Raylet], tables: Tables, job_id: str) -> RayJob:
    nodes = {raylet.node_id for raylet in raylets}
    driven = (j for j in tables.jobs if j.job_id == job_id and j.driver_node in nodes)
    return RayJob(
        raylets=raylets,
        job_id=job_id,
        pids=tuple(one.pid for one in _local(tables, raylets) if one.job_id == job_id),
        driver=next((job.driver_pid for job in driven), 0),
    )


def _local(tables: Tables, raylets: Sequence[Raylet]) -> list[RayActorSeen]:
    nodes = {raylet.node_id for raylet in raylets}
    return [a for a in tables.actors if a.pid and a.is_placed and a.node_id in nodes]


def _place(tables: Tables, actor: RayActorSeen) -> str:
    node = next((node for node in tables.nodes if node.node_id == actor.node_id), None)
    if not actor.pid or node is None:
        return f"{actor.state}, on no node, job {actor.job_id}"
    name = f"{node.host_name} ({node.address})"
    return f"pid {actor.pid} on {name}, node {node.node_id[:12]}, job {actor.job_id}"
