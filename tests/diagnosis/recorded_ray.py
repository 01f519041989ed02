"""A recorded job of actors, and what its Ray cluster says of them."""

from __future__ import annotations

import msgspec

from distwatch.state import events as ev
from distwatch.state.ray_events import (
    RayActorSeen,
    RayGroupSeen,
    RayJobSeen,
    RayLooked,
    RayNodeSeen,
)
from tests.diagnosis.recorded import HOST, SECOND, RecordedJob

JOB = "01000000"


class RecordedActors(RecordedJob):
    """Ranks that are actors of one Ray job; the observer on HOST reads the cluster's tables."""

    def __init__(self, world: int) -> None:
        super().__init__(world, launcher="ray", single_node=False)
        self.actors: dict[str, RayActorSeen] = {}

    def actor(
        self, rank: int | None, at: float, state: str = "ALIVE", *, name: str = "", **row: object
    ) -> None:
        """One row of the actors' table, changed at that time; of a rank, on its process by default."""
        key = name or f"t{rank}"
        waits = state in ("PENDING_CREATION", "DEPENDENCIES_UNREADY")
        place: dict[str, object] = {}
        if rank is not None and not waits:
            place = {"worker_id": f"w{rank}", "pid": 1000 + rank, "node_id": self.node_id(rank)}
        seen = RayActorSeen(
            **{
                "host": HOST, "actor_id": key, "job_id": JOB, "name": key, "class_name": "Trainer",
                "state": state, "since_ns": int(at * SECOND), "global_rank": rank, "world_size": self.world,
                **place, **row,
            }
        )  # type: ignore[arg-type]  # fmt: skip
        self.actors[key] = seen
        self.see(at, seen)

    def node_id(self, rank: int) -> str:
        return f"node-of-{self.host(rank)}"

    def node(
        self, at: float, host: str = HOST, *, cpus: float = 1, free: float = 0, **row: object
    ) -> None:
        seen = RayNodeSeen(
            **{
                "host": HOST, "node_id": f"node-of-{host}", "address": "10.0.0.1", "host_name": host,
                "total": {"CPU": cpus}, "free": {"CPU": free}, **row,
            }
        )  # type: ignore[arg-type]  # fmt: skip
        self.see(at, seen)

    def placement_group(self, at: float, state: str = "PENDING", **row: object) -> None:
        group = RayGroupSeen(
            **{
                "host": HOST, "group_id": "g", "job_id": JOB, "name": "grp", "state": state,
                "since_ns": int(at * SECOND), "strategy": "PACK", **row,
            }
        )  # type: ignore[arg-type]  # fmt: skip
        self.see(at, group)

    def end_ray_job(self, at: float) -> None:
        self.see(at, RayJobSeen(host=HOST, job_id=JOB, driver_pid=9, ended=True))

    def look(self, at: float) -> None:
        """The tables were read, and the clock of every host has moved on."""
        self.see(at, RayLooked(host=HOST, address="10.0.0.1:6379", actors=len(self.actors)))
        self.tick(at)

    def place(self, rank: int, at: float = 0.5) -> None:
        """The rank's own agent says which actor it is."""
        self.say(
            rank,
            at,
            ev.WorkerPlaced(
                job_id=JOB,
                node_id=self.node_id(rank),
                worker_id=f"w{rank}",
                actor_id=f"t{rank}",
                actor_name=f"t{rank}",
                actor_class="Trainer",
            ),
        )

    def train(self, *ranks: int, at: float, waits: tuple[int, ...] = ()) -> None:
        """The ranks have formed a world and made some collectives; `waits` are in one more since 10 s."""
        for rank in ranks:
            inside = rank in waits
            seq, left = (5, 0.0) if inside else (4, 10.1)
            operation = self.operation(rank, "allreduce", seq, at=10, left=left)
            progress = (5, 4, 10.0) if inside else (4, 4, 10.1)
            self.pulse(rank, at=at, groups={"0": progress}, operations=(operation,))
            self.sample(rank, at, "S")

    def started(self, *ranks: int) -> None:
        """Placed ranks with a world of their own."""
        self.initialize(*ranks)
        for rank in ranks:
            self.place(rank)
            self.actor(rank, 1.0)


def without_looks(job: RecordedActors) -> RecordedActors:
    """The same job where nobody asked Ray."""
    ray = (RayActorSeen, RayNodeSeen, RayGroupSeen, RayJobSeen, RayLooked)
    plain = RecordedActors(job.world)
    plain.hosts = job.hosts
    for stream, records in job.records.items():
        for _, time_ns, event in records:
            if not isinstance(event, ray):
                plain._fold(msgspec.structs.replace(job.headers[stream]), time_ns / SECOND, event)
    return plain


def waiting_for_rank_1() -> RecordedActors:
    """Rank 0 waits in its initialization since second 1, with a deadline of 10 s."""
    job = RecordedActors(2)
    job.enter(0)
    job.place(0)
    job.actor(0, 1.0)
    job.node(1.0)
    return job


def running() -> RecordedActors:
    """Two ranks that compute."""
    job = RecordedActors(2)
    job.started(0, 1)
    job.node(1.0)
    job.train(0, 1, at=40.0)
    return job
