"""Meetings beside the default group: what is written of them, and that nothing changes for the job."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from distwatch.agent import core
from distwatch.agent.retained import Retained
from distwatch.hooks.patch import PatchSet
from distwatch.integrations import torch_rendezvous
from distwatch.integrations.torch_groups import KnownGroups
from distwatch.state.events import Event, ExtraGroupJoined, StepStarted, encode_event
from tests.support.ranks import free_port

STORE_INIT = vars(dist.TCPStore)["__init__"]


class Recorder:
    """In place of an agent: what it was told."""

    def __init__(self) -> None:
        self.retained = Retained()
        self.started = type("Started", (), {"role": "rank"})()
        self.is_initializing = False
        self.steps: list[str] = []
        self.ended: list[str | None] = []

    def begin_step(self, name: str, **said: object) -> int:
        StepStarted(step=1, name=name)
        self.steps.append(name)
        return len(self.steps)

    def end_step(self, step: int, error: str | None = None) -> None:
        self.ended.append(error)

    def record(self, event: Event) -> None:
        self.retained.keep(1, event, encode_event(event))

    @property
    def extra_groups(self) -> dict[int, ExtraGroupJoined]:
        return {world.number: world for world in self.retained.all(ExtraGroupJoined)}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    recorder = Recorder()
    monkeypatch.setattr(core, "_current", recorder)
    patches = PatchSet()
    torch_rendezvous.hook_constructors(patches, KnownGroups(c10d))
    yield recorder
    assert patches.undo()
    assert vars(dist.TCPStore)["__init__"] is STORE_INIT


def test_a_bare_store_is_a_world_and_stays_what_it_is(agent: Recorder) -> None:
    port = free_port()
    store = dist.TCPStore("127.0.0.1", port, 1, True, timedelta(seconds=20))
    assert type(store) is dist.TCPStore
    store.set("key", "value")
    assert store.get("key") == b"value"
    world = agent.extra_groups[1]
    assert (world.endpoint, world.group_rank, world.size, world.via) == (
        f"127.0.0.1:{port}",
        0,
        1,
        "store",
    )
    assert world.site is not None
    assert world.site.function == "test_a_bare_store_is_a_world_and_stays_what_it_is"


def test_a_group_over_it_is_the_same_world(agent: Recorder) -> None:
    store = dist.TCPStore("127.0.0.1", free_port(), 1, True, timedelta(seconds=20))
    dist.ProcessGroupGloo(dist.PrefixStore("weights", store), 0, 1, timedelta(seconds=20))
    assert list(agent.extra_groups) == [1]
    assert agent.extra_groups[1].via == "process group"
    assert agent.ended == [None, None]


def test_a_second_store_is_another_world(agent: Recorder) -> None:
    stores = [dist.TCPStore("127.0.0.1", free_port(), 1, True) for _ in range(2)]
    assert len({store.port for store in stores}) == 2
    assert [world.endpoint for world in agent.extra_groups.values()] == [
        f"127.0.0.1:{store.port}" for store in stores
    ]


def test_a_wrong_call_is_torchs_to_refuse(agent: Recorder) -> None:
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        dist.TCPStore("127.0.0.1", "no port")
    assert agent.ended[0] is not None
    assert agent.ended[0].startswith("TypeError")


def test_torchs_own_initialization_is_no_world_beside_itself(agent: Recorder) -> None:
    agent.is_initializing = True
    dist.TCPStore("127.0.0.1", free_port(), 1, True)
    assert agent.steps == []


def test_a_launcher_is_left_alone(agent: Recorder) -> None:
    agent.started.role = "launcher"
    dist.TCPStore("127.0.0.1", free_port(), 1, True)
    assert agent.steps == []
