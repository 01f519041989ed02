"""Asks a run's Ray cluster what it knows about the run's actors.

A run belongs to a cluster if its processes are workers of a raylet of this machine. The tables are
read every few seconds while something waits or has failed there, and less and less often otherwise;
changes are recorded. A leaf does not ask: the root of the run does, once for all hosts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter

import msgspec

from distwatch.launch import run_of_ray_job
from distwatch.observer.background import in_background
from distwatch.observer.journals.recording import Recording
from distwatch.probes.ray_cluster import WITHIN_S, ClusterUnreadable, Tables, read_tables
from distwatch.probes.raylets import Raylet, clusters_here, raylet_of
from distwatch.runfolder import name_of
from distwatch.state.model import RunState
from distwatch.state.ray_events import RAY, RayLooked, RayNodeSeen
from distwatch.state.ray_tables import RayEvent, RayTables

FIRST_AFTER_S = 2.0
OFTEN_S = 5.0
RARELY_S = 30.0
LEAST_S = 1.0
SEARCH_EVERY_S = 10.0
_LATE_S = 5.0
"""The look's own deadline is shorter: this one is for a machine that cannot start a process."""
_NIL_JOB = frozenset("f")
_STAY = attrgetter("state", "worker_id", "restarts")


class ClusterLooks:
    """One observer's looks at its cluster's tables; none unless the run has a Ray worker here."""

    def __init__(
        self, recording: Recording, state: RunState, on_news: Callable[[], None] = lambda: None
    ) -> None:
        """`on_news` is called when a look finds something new."""
        self._recording = recording
        self._state = state
        self._on_news = on_news
        self._host = recording.header.host
        self._raylets: list[Raylet] = []
        self._jobs: set[str] = set()
        self._examined: set[int] = set()
        self._due = 0.0
        self._search_at = 0.0
        self._every_s = OFTEN_S
        self._looking: asyncio.Task[None] | None = None
        self._unreadable = ""
        self._over = False

    def know(self, raylets: Iterable[Raylet], jobs: Iterable[str]) -> None:
        """Sets the run's cluster and jobs, for a run without a worker on this machine."""
        self._raylets = list(raylets)
        self._jobs.update(jobs)

    def consider(self, pids: Iterable[int], *, leaf: bool = False) -> None:
        """Starts a look if one is due. Never waits for it.

        Args:
            pids: the run's living processes on this machine.
            leaf: another host's observer sees the whole run.
        """
        self._examine(pids)
        now = time.monotonic()
        if not self._raylets and not leaf and now >= self._search_at:
            self._search_at = now + SEARCH_EVERY_S
            self._search()
        if leaf or self._over or not self._raylets or self._looking or now < self._due:
            return
        self._looking = asyncio.create_task(self._look())

    def look_soon(self) -> None:
        """A process has ended: Ray may know why."""
        self._due = min(self._due, time.monotonic() + LEAST_S)

    def close(self) -> None:
        """Cancels the look that is under way; nothing of it is recorded."""
        if self._looking is not None:
            self._looking.cancel()

    def _examine(self, pids: Iterable[int]) -> None:
        for pid in pids:
            if pid in self._examined:
                continue
            self._examined.add(pid)
            raylet = raylet_of(pid)
            if raylet is not None and all(one.node_id != raylet.node_id for one in self._raylets):
                # A run has one cluster: the first worker's.
                if not self._raylets:
                    self._due = time.monotonic() + FIRST_AFTER_S
                if not self._raylets or self._raylets[0].address == raylet.address:
                    self._raylets.append(raylet)

    def _search(self) -> None:
        """Looks for the cluster of a run whose workers are all on other machines; it needs a node here."""
        jobs = self._known_jobs()
        clusters = list(clusters_here().values()) if jobs else []
        run = name_of(self._state.run_id)
        named = [
            raylets
            for raylets in clusters
            if run in {run_of_ray_job(job, raylets[0].session) for job in jobs}
        ]
        chosen = named or clusters
        if len(chosen) == 1:
            self._raylets = chosen[0]

    async def _look(self) -> None:
        try:
            tables = await in_background(
                partial(self._read, self._known_jobs()), within_s=WITHIN_S + _LATE_S
            )
            self._fold(tables)
        except ClusterUnreadable as error:
            self._cannot_look(str(error))
        except asyncio.TimeoutError:
            self._cannot_look(
                "this machine could not start a process that reads its tables in time"
            )
        except Exception as error:
            self._cannot_look(f"{type(error).__name__}: {error}"[:300])
        finally:
            self._looking = None
            self._due = time.monotonic() + self._every_s

    def _known_jobs(self) -> tuple[str, ...]:
        """The run's jobs as its workers report them; none where they must be found by pid."""
        said = {p.worker.job_id for p in self._state.processes.values() if p.worker}
        self._jobs |= {job for job in said if job and set(job) != _NIL_JOB}
        return tuple(sorted(self._jobs))

    def _read(self, jobs: tuple[str, ...]) -> Tables:
        tables = read_tables(self._raylets, jobs=jobs)
        if jobs:
            return tables
        nodes = {raylet.node_id for raylet in self._raylets}
        own = {a.job_id for a in tables.actors if a.pid in self._examined and a.node_id in nodes}
        self._jobs |= own
        return msgspec.structs.replace(
            tables,
            actors=tuple(actor for actor in tables.actors if actor.job_id in own),
            groups=tuple(group for group in tables.groups if group.job_id in own),
            jobs=tuple(job for job in tables.jobs if job.job_id in own),
            actors_total=sum(actor.job_id in own for actor in tables.actors),
        )

    def _cannot_look(self, why: str) -> None:
        self._every_s = min(2 * self._every_s, RARELY_S)
        if why != self._unreadable:
            self._unreadable = why
            self._recording.miss(RAY, why)
            self._on_news()

    def _fold(self, tables: Tables) -> None:
        self._unreadable = ""
        known = self._state.hosts[self._host].ray if self._host in self._state.hosts else None
        changes = list(changes_of(tables, known or RayTables(), time.monotonic_ns()))
        for change in changes:
            self._recording.record(change)
        address = self._raylets[0].address
        self._recording.record(
            RayLooked(host=self._host, address=address, actors=tables.actors_total)
        )
        if tables.actors_total > len(tables.actors):
            why = f"{len(tables.actors)} of {tables.actors_total} actors are listed, those that wait or failed first"
            self._recording.miss("Ray's actors", why)
        moved = any(not isinstance(change, RayNodeSeen) for change in changes)
        again = moved or _is_troubled(tables)
        self._every_s = OFTEN_S if again else min(2 * self._every_s, RARELY_S)
        self._over = bool(tables.jobs) and all(job.ended for job in tables.jobs)
        if moved:
            self._on_news()


def changes_of(tables: Tables, known: RayTables, now_ns: int) -> Iterable[RayEvent]:
    """The rows that are new or changed, each with the time since when it has been so."""
    for actor in tables.actors:
        before = known.actors.get(actor.actor_id)
        since_ns = before.since_ns if before and _STAY(before) == _STAY(actor) else now_ns
        actor = msgspec.structs.replace(actor, since_ns=since_ns)
        if actor != before:
            yield actor
    for group in tables.groups:
        held = known.groups.get(group.group_id)
        since_ns = held.since_ns if held and held.state == group.state else now_ns
        group = msgspec.structs.replace(group, since_ns=since_ns)
        if group != held:
            yield group
    waits = _is_troubled(tables)
    for node in tables.nodes:
        seen = known.nodes.get(node.node_id)
        # Free resources change all the time, and matter only while something waits for them.
        free = seen.free if seen is not None and not waits else node.free
        if seen != msgspec.structs.replace(node, free=free):
            yield node
    yield from (job for job in tables.jobs if known.jobs.get(job.job_id) != job)
    if tables.actors_total == len(tables.actors):
        yield from _gone(tables, known, now_ns)


def _gone(tables: Tables, known: RayTables, now_ns: int) -> Iterable[RayEvent]:
    """Rows that Ray no longer lists: nothing waits for them any more."""
    actors, groups = {a.actor_id for a in tables.actors}, {g.group_id for g in tables.groups}
    for actor in known.actors.values():
        if actor.actor_id not in actors and actor.state != "DEAD":
            yield msgspec.structs.replace(actor, state="DEAD", death="released", since_ns=now_ns)
    for group in known.groups.values():
        if group.group_id not in groups and group.state != "REMOVED":
            yield msgspec.structs.replace(group, state="REMOVED", since_ns=now_ns)


def _is_troubled(tables: Tables) -> bool:
    """Whether an actor or a placement group is not in a final state."""
    unsettled = any(actor.state not in ("ALIVE", "DEAD") for actor in tables.actors)
    return unsettled or any(group.waits for group in tables.groups)
