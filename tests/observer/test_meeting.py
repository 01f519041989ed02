"""The observer looks at the place where ranks are to meet, and answers a rank that asks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import torch.distributed as dist

from distwatch.agent.observer_question import ask_verdict
from distwatch.observer import meeting
from distwatch.observer.daemon import Observer
from distwatch.observer.serving import ViewerServer
from distwatch.runfolder import RunFolder
from distwatch.state.events import EndpointProbed
from distwatch.state.model import RunState
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


@pytest_asyncio.fixture
async def observer(folder: RunFolder) -> AsyncIterator[Observer]:
    """A served observer, driven tick by tick."""
    made = Observer(folder)
    server = ViewerServer(made)
    await server.start()
    yield made
    await server.close()
    await made.finish("the test ends")


def looks(state: RunState) -> list[EndpointProbed]:
    return [e.event for e in state.timeline if isinstance(e.event, EndpointProbed)]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def test_a_place_is_looked_at_while_somebody_waits_there(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "FIRST_AFTER_S", 0.0)
    rank, port = start_rank(0, 2), closed_port()
    observer.tick()
    assert not observer.meeting_places._watched, "nobody is on the way"
    rank.do(f"plan 127.0.0.1:{port} 2")
    rank.do("begin init_process_group 100")
    observer.tick()
    await observer.meeting_places.look_now(observer.state, 30)
    assert [(look.endpoint, look.outcome) for look in looks(observer.state)] == [
        (f"127.0.0.1:{port}", "refused")
    ]
    host = observer.state.hosts[looks(observer.state)[0].host]
    assert host.endpoints[f"127.0.0.1:{port}"].outcome == "refused"
    assert not host.answered_ns


async def test_what_has_not_changed_is_not_said_again_and_what_has_is(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "FIRST_AFTER_S", 0.0)
    rank, port = start_rank(0, 2), closed_port()
    rank.do(f"plan 127.0.0.1:{port} 2")
    rank.do("begin init_process_group 100")
    observer.tick()
    for _ in range(3):
        await observer.meeting_places.look_now(observer.state, 30)
    store = dist.TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    await observer.meeting_places.look_now(observer.state, 30)
    assert [look.outcome for look in looks(observer.state)] == ["refused", "store"]
    host = observer.state.hosts[looks(observer.state)[0].host]
    assert host.answered_ns[f"127.0.0.1:{port}"] > 0
    del store


async def test_a_rank_that_asks_is_told_where_everybody_stands(
    observer: Observer, start_rank: Start
) -> None:
    rank = start_rank(0, 2)
    rank.do(f"plan 127.0.0.1:{closed_port()} 2")
    rank.do("begin init_process_group 0")
    observer.tick()
    verdict = await asyncio.to_thread(ask_verdict, observer.folder, 30.0)
    assert verdict is not None
    assert [(s.global_rank, s.word, s.pid) for s in verdict.standings] == [
        (0, "initializing", rank.pid),
        (1, "unobserved", None),
    ]
    assert [(f.code, f.culprit_ranks) for f in verdict.findings] == [
        ("rendezvous.rank_never_started", (1,))
    ]
    assert observer.viewers == 0


async def test_without_an_observer_nobody_answers(folder: RunFolder) -> None:
    assert await asyncio.to_thread(ask_verdict, folder, 1.0) is None


async def test_an_observer_that_does_not_answer_is_not_waited_for(folder: RunFolder) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(folder.socket)
        mute.listen()
        assert await asyncio.to_thread(ask_verdict, folder, 0.1) is None
