"""What a person may mean by an actor's name, a driver's pid or a Ray worker's pid on this machine.

Asked of the runs that this machine knows, and of the clusters whose raylets run here; Ray's
dashboard is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from distwatch.errors import NoSuchTarget, PartialData, UsageError
from distwatch.launch import run_of_ray_job
from distwatch.observer.journals.reading import any_alive, load_state
from distwatch.probes import discovery
from distwatch.probes.ray_cluster import ClusterUnreadable, Tables, read_tables
from distwatch.probes.raylets import Raylet, clusters_here, has_loaded_ray, raylet_of
from distwatch.runfolder import RunFolder, name_of
from distwatch.state.events import ProcessSighted
from distwatch.state.model import RunState
from distwatch.state.ray_events import RayActorSeen

_WITHIN_S = 8.0
RunOfPid = Callable[[int], RunFolder | None]


class RayMembers(msgspec.Struct, frozen=True, kw_only=True):
    """A Ray job's part on this machine: its cluster's raylets, its id and its actors' workers."""

    raylets: tuple[Raylet, ...]
    job: str
    pids: tuple[int, ...] = ()


def run_or_pid_of_actor(
    name: str, folders: Sequence[RunFolder], run_of_pid: RunOfPid
) -> RunFolder | int | None:
    """The run of the actor of that name, or a pid of its job where no run knows it; None: there is none.

    Living runs come first, then the clusters of this machine, then ended runs, the newest first.

    Raises:
        UsageError: several have that name.
        NoSuchTarget: it lives on another node, and its job has no run here.
    """
    living = [folder for folder in folders if any_alive(folder)]
    holding = [folder for folder in living if _holds(folder, name)]
    if len(holding) > 1:
        raise UsageError(
            f"several runs have an actor {name!r}: {', '.join(f.run_id for f in holding)}",
            advice="Name the run, or the pid of the actor's worker.",
        )
    if holding:
        return holding[0]
    if (found := _in_clusters(name, folders, run_of_pid)) is not None:
        return found
    ended = [folder for folder in folders if folder not in living and _holds(folder, name)]
    return ended[-1] if ended else None


def run_of_driver(pid: int, folders: Sequence[RunFolder], run_of_pid: RunOfPid) -> RunFolder | None:
    """The run of the Ray job whose driver has this pid; None: it is no driver, or has no run here."""
    found = _driven_by(pid)
    if found is None:
        return None
    raylets, tables = found
    return _run_of_job(raylets, tables.jobs[0].job_id, tables.actors, folders, run_of_pid)


def members_of(pid: int) -> RayMembers | None:
    """The Ray job that a worker or a driver belongs to; None where it is neither, or Ray is silent."""
    own = raylet_of(pid)
    try:
        found = _driven_by(pid) if own is None else _working_at(pid, own)
    except ClusterUnreadable:
        return None
    if found is None:
        return None
    raylets, tables = found
    return RayMembers(
        raylets=tuple(raylets),
        job=tables.jobs[0].job_id,
        pids=tuple(actor.pid for actor in _local(tables.actors, raylets)),
    )


def with_members(sighted: list[ProcessSighted], members: RayMembers | None) -> list[ProcessSighted]:
    """The processes that were found without Ray, and the workers of the job's other actors."""
    known = {process.pid for process in sighted}
    pids = [pid for pid in (members.pids if members else ()) if pid not in known]
    return sighted + [seen for pid in pids if (seen := discovery.sight(pid)) is not None]


def _holds(folder: RunFolder, name: str) -> bool:
    try:
        state = load_state(folder)
    except PartialData:
        return False
    return name in _names(state)


def _names(state: RunState) -> set[str]:
    placed = {p.worker.actor_name for p in state.processes.values() if p.worker is not None}
    told = {actor.name for host in state.hosts.values() for actor in host.ray.actors.values()}
    return (placed | told) - {""}


def _in_clusters(
    name: str, folders: Sequence[RunFolder], run_of_pid: RunOfPid
) -> RunFolder | int | None:
    found: list[tuple[list[Raylet], Tables, RayActorSeen]] = []
    for raylets in clusters_here().values():
        tables = _read(raylets, name=name)
        named = (actor for actor in tables.actors if actor.state != "DEAD")
        found += [(raylets, tables, actor) for actor in named]
    if len(found) > 1:
        told = ", ".join(_place(tables, actor) for _, tables, actor in found)
        raise UsageError(
            f"several actors are called {name!r}: {told}", advice="Give the pid of one of them."
        )
    if not found:
        return None
    raylets, tables, actor = found[0]
    if actor.pid and any(raylet.node_id == actor.node_id for raylet in raylets):
        return run_of_pid(actor.pid) or actor.pid
    run = _run_of_job(raylets, actor.job_id, tables.actors, folders, run_of_pid)
    if run is not None:
        return run
    if not actor.pid and (driver := _driver_here(tables, actor.job_id, raylets)):
        return driver
    where = _place(tables, actor)
    raise NoSuchTarget(
        f"the actor {name!r} is not on this machine ({where}), and no run here knows its job",
        advice="Attach on that node; or `distwatch up --ray` links all nodes, and `attach ray://` shows them."
        if actor.pid
        else "It has no worker: `ray list actors` tells its state; give the pid of its driver.",
    )


def _driven_by(pid: int) -> tuple[list[Raylet], Tables] | None:
    if raylet_of(pid) is not None or not has_loaded_ray(pid):
        return None
    for raylets in clusters_here().values():
        tables = _read(raylets, driver=pid)
        if tables.jobs:
            return raylets, tables
    return None


def _working_at(pid: int, raylet: Raylet) -> tuple[list[Raylet], Tables] | None:
    raylets = clusters_here().get(raylet.address, [raylet])
    everything = read_tables(raylets, within_s=_WITHIN_S)
    own = next((a for a in _local(everything.actors, raylets) if a.pid == pid), None)
    if own is None:
        return None
    return raylets, msgspec.structs.replace(
        everything,
        actors=tuple(actor for actor in everything.actors if actor.job_id == own.job_id),
        jobs=tuple(job for job in everything.jobs if job.job_id == own.job_id),
    )


def _read(raylets: list[Raylet], *, driver: int = 0, name: str = "") -> Tables:
    """What a cluster says; nothing where it does not answer: others may know the target."""
    try:
        return read_tables(raylets, driver=driver, name=name, within_s=_WITHIN_S)
    except ClusterUnreadable:
        return Tables()


def _run_of_job(
    raylets: Sequence[Raylet],
    job: str,
    actors: Iterable[RayActorSeen],
    folders: Sequence[RunFolder],
    run_of_pid: RunOfPid,
) -> RunFolder | None:
    """By the name that such a run has of itself, or by one of its actors, where another was given."""
    name = run_of_ray_job(job, raylets[0].session)
    by_name = [folder for folder in folders if name_of(folder.run_id) == name]
    if by_name:
        return by_name[-1]
    of_job = (actor for actor in actors if actor.job_id == job)
    runs = (run_of_pid(actor.pid) for actor in _local(of_job, raylets))
    return next((run for run in runs if run is not None), None)


def _driver_here(tables: Tables, job: str, raylets: Sequence[Raylet]) -> int:
    """The pid of a job's driver on this machine; 0 where it is elsewhere."""
    nodes = {raylet.node_id for raylet in raylets}
    return next(
        (j.driver_pid for j in tables.jobs if j.job_id == job and j.driver_node in nodes), 0
    )


def _local(actors: Iterable[RayActorSeen], raylets: Sequence[Raylet]) -> list[RayActorSeen]:
    nodes = {raylet.node_id for raylet in raylets}
    return [a for a in actors if a.pid and a.is_placed and a.node_id in nodes]


def _place(tables: Tables, actor: RayActorSeen) -> str:
    node = next((node for node in tables.nodes if node.node_id == actor.node_id), None)
    if not actor.pid or node is None:
        return f"{actor.state}, on no node, job {actor.job_id}"
    name = f"{node.host_name} ({node.address})"
    return f"pid {actor.pid} on {name}, node {node.node_id[:12]}, job {actor.job_id}"
