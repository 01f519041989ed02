"""What of Ray's tables is recorded, and who asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks import cluster_looks
from distwatch.observer.looks.cluster_looks import ClusterLooks, changes_of
from distwatch.probes.ray_cluster import ClusterUnreadable, Tables
from distwatch.probes.raylets import Raylet
from distwatch.runfolder import RunFolder, host_name
from distwatch.state import events as ev
from distwatch.state.model import Process, RunState
from distwatch.state.ray_events import (
    RayActorSeen,
    RayGroupSeen,
    RayJobSeen,
    RayLooked,
    RayNodeSeen,
)
from distwatch.state.ray_tables import RayTables
from distwatch.state.reducer import reduce

HOST = host_name()
RAYLET = Raylet(pid=1, address="10.0.0.1:6379", node_id="n")


def actor(key: str, state: str = "PENDING_CREATION", **row: object) -> RayActorSeen:
    return RayActorSeen(host=HOST, actor_id=key, job_id="01000000", state=state, **row)  # type: ignore[arg-type]


def tables(*actors: RayActorSeen, **more: object) -> Tables:
    return Tables(actors=actors, actors_total=len(actors), **more)  # type: ignore[arg-type]


def test_only_what_changed_is_told_and_waits_are_counted_from_their_begin() -> None:
    known = RayTables()
    (first,) = changes_of(tables(actor("a")), known, 100)
    assert first.since_ns == 100
    known.actors["a"] = first
    assert list(changes_of(tables(actor("a")), known, 200)) == []
    (other,) = changes_of(tables(actor("a", needs={"CPU": 2.0})), known, 300)
    assert other.since_ns == 100, "it waits since then, whatever else changed"
    (placed,) = changes_of(tables(actor("a", "ALIVE", worker_id="w")), known, 400)
    assert placed.since_ns == 400


def test_rows_that_ray_has_forgotten_wait_for_nothing() -> None:
    group = RayGroupSeen(host=HOST, group_id="g", job_id="01000000", state="PENDING")
    known = RayTables(actors={"a": actor("a")}, groups={"g": group})
    gone = list(changes_of(tables(), known, 100))
    assert [event.state for event in gone] == ["DEAD", "REMOVED"]
    assert not gone[0].failed
    cut = msgspec.structs.replace(tables(), actors_total=9)
    assert list(changes_of(cut, known, 100)) == [], "they may be among those that were left out"


def test_what_is_free_is_told_where_somebody_waits_for_it() -> None:
    node = RayNodeSeen(host=HOST, node_id="n", total={"CPU": 4.0}, free={"CPU": 4.0})
    known = RayTables(nodes={"n": node})
    busy = msgspec.structs.replace(node, free={"CPU": 1.0})
    assert list(changes_of(tables(nodes=(busy,)), known, 100)) == []
    dead = msgspec.structs.replace(busy, alive=False)
    assert list(changes_of(tables(nodes=(dead,)), known, 100)) == [dead]
    _, told = changes_of(tables(actor("a"), nodes=(busy,)), known, 100)
    assert told == busy


class Watch:
    """Looks with their recording, into a state of their own."""

    def __init__(self, path: Path) -> None:
        self.state = RunState()
        folder = RunFolder(str(path / "run"))
        folder.create()
        self.told = 0
        self.recording = Recording(folder, self._fold)
        self.looks = ClusterLooks(self.recording, self.state, self._tell)
        self.looks.know([RAYLET], ["01000000"])

    def _fold(self, header: object, seq: int, time_ns: int, event: ev.Event) -> None:
        reduce(self.state, header, seq, time_ns, event)  # type: ignore[arg-type]

    def _tell(self) -> None:
        self.told += 1

    async def look(self, *, leaf: bool = False) -> bool:
        """One look, if there is one."""
        self.looks._due = 0.0
        self.looks.consider([], leaf=leaf)
        begun = self.looks._looking
        if begun is not None:
            await begun
        return begun is not None


def test_a_look_is_recorded_and_what_cannot_be_read_is_said_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Tables | Exception] = [
        tables(actor("a")),
        ClusterUnreadable("it does not answer"),
        ClusterUnreadable("it does not answer"),
        tables(actor("a"), jobs=(RayJobSeen(host=HOST, job_id="01000000", ended=True),)),
    ]

    def read(raylets: list[Raylet], *, jobs: tuple[str, ...] = ()) -> Tables:
        assert jobs == ("01000000",)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cluster_looks, "read_tables", read)

    async def scenario() -> None:
        watch = Watch(tmp_path)
        assert not await watch.look(leaf=True), "the root asks, once for all"
        assert await watch.look()
        host = watch.state.hosts[HOST]
        assert set(host.ray.actors) == {"a"}
        assert host.ray.looked == RayLooked(host=HOST, address="10.0.0.1:6379", actors=1)
        for _ in range(2):
            assert await watch.look()
        assert host.not_observed["Ray"] == "it does not answer"
        assert watch.told == 2, "the same trouble is told once"
        assert await watch.look()
        assert "Ray" not in host.not_observed
        assert not await watch.look(), "the job has ended"
        watch.recording.close()

    asyncio.run(scenario())


def test_a_root_without_ranks_of_its_own_asks_the_cluster_that_its_machine_is_a_node_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = msgspec.structs.replace(RAYLET, session="session_2026-01-02_03-04-05_6_7")
    other = msgspec.structs.replace(here, address="10.9.9.9:1", session="session_2025-01-01_1")
    monkeypatch.setattr(cluster_looks, "clusters_here", lambda: {"a": [other], "b": [here]})
    asked: list[str] = []

    def read(raylets: list[Raylet], *, jobs: tuple[str, ...] = ()) -> Tables:
        asked.append(raylets[0].address)
        return tables(actor("a"))

    monkeypatch.setattr(cluster_looks, "read_tables", read)

    async def scenario() -> None:
        watch = Watch(tmp_path)
        watch.looks = ClusterLooks(watch.recording, watch.state)
        watch.state.run_id = "ray-01000000-20260102-030405"
        assert not await watch.look(), "it is a job of Ray's once a worker has said so"
        elsewhere = Process(key="far", worker=ev.WorkerPlaced(job_id="01000000"))
        watch.state.processes["far"] = elsewhere
        watch.looks._search_at = 0.0
        assert await watch.look()
        watch.recording.close()

    asyncio.run(scenario())
    assert asked == [here.address]
