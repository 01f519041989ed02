"""The observer looks at the place where ranks are to meet: when, how often, and what it says."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.distributed as dist

from distwatch.observer.daemon import Observer
from distwatch.observer.looks import endpoint_monitor as meeting
from distwatch.probes.endpoint import Resolved, probe_endpoint, resolve
from distwatch.runfolder import RunFolder
from distwatch.state.events import EndpointProbed, NotObserved
from distwatch.state.model import RunState
from tests.observer.rank_process import RankProcess
from tests.probes.others import other

Start = Callable[..., RankProcess]


def looks(state: RunState) -> list[EndpointProbed]:
    return [e.event for e in state.timeline if isinstance(e.event, EndpointProbed)]


def outcomes(observer: Observer) -> list[tuple[str, str]]:
    return [(look.endpoint, look.outcome) for look in looks(observer.state)]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def look_on(observer: Observer) -> None:
    """Lets the looks that a tick began come to their end."""
    while under_way := [w.looking for w in observer.endpoints._watched.values() if w.looking]:
        await asyncio.wait(under_way)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The endpoints of all looks that were really made."""
    made: list[str] = []

    def noted(endpoint: str, *arguments: Any, **options: Any) -> EndpointProbed:
        made.append(endpoint)
        return probe_endpoint(endpoint, *arguments, **options)

    monkeypatch.setattr(meeting, "probe_endpoint", noted)
    return made


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(meeting, "LEAST_S", 0.0)


TAKES_IT = """
import socket, sys
sys.stdin.readline()
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(server.getsockname()[1], flush=True)
sys.stdin.readline()
"""


@pytest.mark.usefixtures("at_once")
async def test_a_place_is_looked_at_while_somebody_waits_there(
    observer: Observer, start_rank: Start, begun: list[str]
) -> None:
    rank, place = start_rank(0, 2), f"127.0.0.1:{closed_port()}"
    rank.do(f"plan {place} 2")
    observer.tick()
    assert not observer.endpoints._watched, "nobody is on the way"
    rank.do("begin init_process_group 100")
    observer.tick()
    await look_on(observer)
    assert outcomes(observer) == [(place, "refused")]
    host = observer.state.hosts[looks(observer.state)[0].host]
    assert host.endpoints[place].outcome == "refused"
    assert not host.answered_ns
    observer.tick()
    assert begun == [place], "the next look is not due yet"


@pytest.mark.usefixtures("at_once")
async def test_a_place_is_looked_at_once_for_all_its_ranks_and_not_when_all_have_met(
    observer: Observer, start_rank: Start, begun: list[str]
) -> None:
    ranks, place = [start_rank(rank, 2) for rank in (0, 1)], f"127.0.0.1:{closed_port()}"
    for rank in ranks:
        rank.do(f"plan {place} 2")
        rank.do("begin init_process_group 100")
    observer.tick()
    await look_on(observer)
    assert begun == [place]
    for rank in ranks:
        rank.do("end")
        rank.do("confirm 0 2")
    observer.tick()
    await observer.endpoints.look_now(observer.state, 30)
    assert begun == [place]
    assert not observer.endpoints._watched


async def test_a_rank_that_has_just_begun_is_given_a_moment(
    observer: Observer, start_rank: Start, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "FIRST_AFTER_S", 1000.0)
    rank = start_rank(0, 2)
    rank.do(f"plan 127.0.0.1:{closed_port()} 2")
    rank.do("begin init_process_group 100000")
    observer.tick()
    assert not begun


@pytest.mark.usefixtures("at_once")
async def test_an_address_of_ipv6_is_found_by_the_ranks_own_spelling(
    observer: Observer, start_rank: Start
) -> None:
    rank, place = start_rank(0, 2), f"::1:{closed_port()}"
    rank.do(f"plan {place} 2")
    rank.do("begin init_process_group 100")
    observer.tick()
    await look_on(observer)
    assert outcomes(observer) == [(place, "refused")]


@pytest.mark.usefixtures("at_once")
async def test_a_rank_that_failed_and_is_gone_has_its_place_looked_at(
    observer: Observer, start_rank: Start
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rank, place = start_rank(0, 2), f"127.0.0.1:{taken.getsockname()[1]}"
        rank.do(f"plan {place} 2")
        rank.do("begin init_process_group 100")
        rank.do("end EADDRINUSE")
        rank.kill()
        observer.tick()
        await look_on(observer)
    (look,) = looks(observer.state)
    assert (look.endpoint, look.outcome, look.owner_pid) == (place, "silent", os.getpid())


async def test_the_end_of_who_hosts_the_store_is_looked_at_though_all_had_met(
    observer: Observer, start_rank: Start, begun: list[str]
) -> None:
    place = f"127.0.0.1:{closed_port()}"
    host, guest, elsewhere = (start_rank(rank, 3) for rank in range(3))
    host.do(f"plan {place} 3 0 store")
    guest.do(f"plan {place} 3 1")
    elsewhere.do("plan 127.0.0.1:1 3 2")
    for number, rank in enumerate((host, guest, elsewhere)):
        rank.do("begin init_process_group 100")
        rank.do("end")
        rank.do(f"confirm {number} 3")
    observer.tick()
    elsewhere.kill()
    observer.tick()
    await look_on(observer)
    assert begun == [], "it hosted nothing"
    host.kill()
    observer.tick()
    await look_on(observer)
    assert outcomes(observer) == [(place, "refused")]
    guest.kill()
    observer.tick()
    await look_on(observer)
    assert begun == [place]


@pytest.mark.usefixtures("at_once")
async def test_what_has_not_changed_is_not_said_again_and_what_has_is(
    observer: Observer, start_rank: Start
) -> None:
    rank, port = start_rank(0, 2), closed_port()
    rank.do(f"plan 127.0.0.1:{port} 2")
    rank.do("begin init_process_group 100")
    observer.tick()
    for _ in range(3):
        await observer.endpoints.look_now(observer.state, 30)
    store = dist.TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    for _ in range(2):
        await observer.endpoints.look_now(observer.state, 30)
    assert [look.outcome for look in looks(observer.state)] == ["refused", "store"]
    host = observer.state.hosts[looks(observer.state)[0].host]
    assert host.answered_ns[f"127.0.0.1:{port}"] > 0
    del store


async def test_a_store_that_still_answers_is_said_again_from_time_to_time(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
    monkeypatch.setattr(meeting, "RARELY_S", 0.0)
    rank, place = start_rank(0, 2), f"127.0.0.1:{store.port}"
    rank.do(f"plan {place} 2")
    rank.do("begin init_process_group 100")
    observer.tick()
    answered = []
    for _ in range(2):
        await observer.endpoints.look_now(observer.state, 30)
        answered.append(observer.state.hosts[looks(observer.state)[0].host].answered_ns[place])
    assert answered[0] < answered[1]


async def inspected(observer: Observer) -> None:
    """Lets the stacks that a verdict asked for come in, and judges what they brought."""
    while observer.inspection.running:
        await asyncio.wait([observer.inspection.begin("", {})])
        observer.tick()


@pytest.mark.usefixtures("at_once")
async def test_news_of_the_place_is_told_with_the_verdict_that_stands(
    observer: Observer, start_rank: Start
) -> None:
    rank, port = start_rank(0, 2), closed_port()
    rank.do(f"plan 127.0.0.1:{port} 2 0 store")
    rank.do("begin init_process_group 100")
    rank.do("end EADDRINUSE")
    with other(TAKES_IT, str(port)) as taker:
        observer.tick()
        await look_on(observer)
        observer.tick()
        await inspected(observer)
        (finding,) = observer.state.recorded_findings
        assert finding.code == "rendezvous.port_taken"
        assert str(taker.pid) not in finding.summary
        taker.say()
        taker.number()
        await observer.endpoints.look_now(observer.state, 30)
        observer.tick()
        await inspected(observer)  # on a slow machine the tick's look is due again
        (finding,) = observer.state.recorded_findings
        assert f"pid {taker.pid} " in finding.summary


class MuteNameServer:
    """A double: what a look-up does while the name server does not answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()

    def __call__(self, host_name: str, port: int) -> Resolved:
        self.asked += 1
        self.answers.wait()
        return resolve("127.0.0.1", port)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MuteNameServer]:
    double = MuteNameServer()
    monkeypatch.setattr(meeting, "resolve", double)
    monkeypatch.setattr(meeting, "RESOLVED_WITHIN_S", 0.01)
    yield double
    double.answers.set()


@pytest.mark.usefixtures("at_once")
async def test_a_name_server_that_does_not_answer_is_told_and_asked_once(
    observer: Observer, start_rank: Start, name_server: MuteNameServer
) -> None:
    rank, port = start_rank(0, 2), closed_port()
    rank.do(f"plan node0:{port} 2")
    rank.do("begin init_process_group 100")
    observer.tick()
    for _ in range(3):
        await observer.endpoints.look_now(observer.state, 30)
    assert outcomes(observer) == [(f"node0:{port}", "error")]
    assert "'node0'" in looks(observer.state)[0].detail
    assert name_server.asked == 1
    name_server.answers.set()
    (watched,) = observer.endpoints._watched.values()
    assert watched.lookup is not None
    await asyncio.wait([watched.lookup])
    await observer.endpoints.look_now(observer.state, 30)
    assert outcomes(observer)[1:] == [(f"node0:{port}", "refused")]


@pytest.mark.usefixtures("at_once")
async def test_a_look_that_fails_is_told_once_and_the_watch_goes_on(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> EndpointProbed:
        raise RuntimeError("no more threads")

    rank, place = start_rank(0, 2), f"127.0.0.1:{closed_port()}"
    rank.do(f"plan {place} 2")
    rank.do("begin init_process_group 100")
    with monkeypatch.context() as patch:
        patch.setattr(meeting, "probe_endpoint", broken)
        observer.tick()
        for _ in range(2):
            await observer.endpoints.look_now(observer.state, 30)
    told = [e.event for e in observer.state.timeline if isinstance(e.event, NotObserved)]
    assert [(t.what, t.why) for t in told if "endpoint" in t.what] == [
        (f"endpoint {place}", "RuntimeError: no more threads")
    ]
    await observer.endpoints.look_now(observer.state, 30)
    assert outcomes(observer) == [(place, "refused")]


@pytest.mark.usefixtures("at_once")
async def test_a_look_that_outlives_the_observer_says_nothing(
    folder: RunFolder, start_rank: Start, name_server: MuteNameServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(meeting, "RESOLVED_WITHIN_S", 60.0)
    observer = Observer(folder)
    rank = start_rank(0, 2)
    rank.do(f"plan node0:{closed_port()} 2")
    rank.do("begin init_process_group 100")
    observer.tick()
    (watched,) = observer.endpoints._watched.values()
    look = watched.looking
    assert look is not None
    await observer.finish("the test ends")
    name_server.answers.set()
    await asyncio.wait([look])
    assert look.cancelled()
    assert looks(observer.state) == []
