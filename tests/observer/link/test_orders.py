"""An observer takes the part that it is told, changes it, and never what its environment says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from distwatch.observer.daemon import Observer
from distwatch.observer.link import leaf as leaf_module
from distwatch.observer.link.channel import Channel
from distwatch.observer.link.orders import Order, OrderFailed, Part, give_order
from distwatch.observer.link.start import Link
from distwatch.observer.serving import ViewerServer
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from tests.support.ranks import free_port

TOKEN = "0123456789abcdef"
OTHER = "fedcba9876543210"
ANYWHERE = "127.0.0.1:0"


def order(part: str, place: str = ANYWHERE, token: str = TOKEN) -> Order:
    return Order(part="root" if part == "root" else "leaf", place=place, token=token)


@pytest_asyncio.fixture
async def observer(folder: RunFolder) -> AsyncIterator[Observer]:
    made = Observer(folder)
    yield made
    await made.finish("the test ends")


@pytest_asyncio.fixture
async def link(observer: Observer) -> AsyncIterator[Link]:
    made = Link(observer, {})
    made.start()
    yield made
    if made.leaf is not None:
        await made.leaf.retire()  # nobody is there to deliver to
        made.leaf = None
    await made.close()


async def test_over_the_socket_an_order_is_answered(observer: Observer, link: Link) -> None:
    server = ViewerServer(observer, link)
    await server.start()
    try:
        first = await asyncio.to_thread(give_order, observer.folder, order("root"))
        again = await asyncio.to_thread(give_order, observer.folder, order("root"))
    finally:
        await server.close()
    assert first.part == "root"
    assert not first.why_not
    assert again == first


async def test_without_an_observer_an_order_fails(folder: RunFolder) -> None:
    with pytest.raises(OrderFailed, match="does not answer"):
        give_order(folder, order("root"))


async def test_a_leaf_becomes_the_root_and_a_leaf_again(observer: Observer, link: Link) -> None:
    assert (await link.obey(order("leaf", "127.0.0.1:1"))).part == "leaf"
    assert observer.judge.of_one_host
    root = await link.obey(order("root"))
    assert root.part == "root"
    assert not observer.judge.of_one_host
    assert not observer.record_sinks
    assert observer.others is link.root
    again = await link.obey(order("leaf", "127.0.0.1:1"))
    assert again == Part(part="leaf", place="127.0.0.1:1")
    assert observer.others is None


async def test_a_leaf_is_sent_elsewhere_and_the_old_root_is_not_missed(
    observer: Observer, link: Link
) -> None:
    await link.obey(order("leaf", "127.0.0.1:1"))
    leaf = link.leaf
    told = await link.obey(order("leaf", "127.0.0.1:2"))
    assert link.leaf is leaf
    assert told.place == "127.0.0.1:2"
    (host,) = observer.state.hosts.values()
    assert host.links["127.0.0.1:1"].ended


async def test_the_root_is_no_leaf_of_itself(link: Link) -> None:
    root = await link.obey(order("root"))
    assert await link.obey(order("leaf", root.place)) == root


async def test_another_token_needs_another_root(link: Link) -> None:
    first = await link.obey(order("root"))
    other = await link.obey(order("root", token=OTHER))
    assert other.part == "root"
    assert other.place != first.place


async def test_another_address_or_port_needs_another_root(link: Link) -> None:
    first = await link.obey(order("root"))
    moved = await link.obey(order("root", "127.0.0.2:0"))
    assert moved.place.startswith("127.0.0.2:")
    port = free_port()
    assert (await link.obey(order("root", f"127.0.0.2:{port}"))).place == f"127.0.0.2:{port}"
    assert first.place.startswith("127.0.0.1:")


async def test_a_leaf_that_is_sent_elsewhere_while_it_introduces_itself_goes(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    introducing, go_on, connect = asyncio.Event(), asyncio.Event(), leaf_module.connect

    async def slowly(*arguments: Any) -> Channel:
        channel = await connect(*arguments)
        introducing.set()
        await go_on.wait()
        return channel

    monkeypatch.setattr(leaf_module, "connect", slowly)
    monkeypatch.setenv("DISTWATCH_HOST", "elsewhere")
    far, roots, places = [], [], []
    for name in ("old", "new"):
        folder = RunFolder(str(tmp_path / name / "r"))
        folder.create()
        far.append(Observer(folder))
        roots.append(Link(far[-1], {}))
        places.append((await roots[-1].obey(order("root"))).place)
    came = asyncio.Event()
    far[1].sinks.append(
        lambda entry: came.set() if isinstance(entry.event, ev.LinkChanged) else None
    )
    try:
        await link.obey(order("leaf", places[0]))
        await asyncio.wait_for(introducing.wait(), 60)
        await link.obey(order("leaf", places[1]))
        go_on.set()
        await asyncio.wait_for(came.wait(), 60)
    finally:
        for one in roots:
            await one.close()
        for one in far:
            await one.finish("the test ends")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (order("root", "nowhere"), "host:port"),
        (order("leaf", ":1"), "host:port"),
        (order("root", token="short"), "the minimum is 16"),
    ],
    ids=["no port", "no host", "short token"],
)
async def test_what_makes_no_sense_is_refused(link: Link, given: Order, why: str) -> None:
    told = await link.obey(given)
    assert told.part == ""
    assert why in told.why_not


async def test_a_port_that_is_taken_is_said(link: Link, observer: Observer) -> None:
    port = free_port()
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    try:
        told = await link.obey(order("root", f"127.0.0.1:{port}"))
    finally:
        server.close()
        await server.wait_closed()
    assert told.part == ""
    assert f"127.0.0.1:{port}" in told.why_not
    assert observer.others is None


async def test_what_the_environment_says_stands(observer: Observer) -> None:
    environ = {"DISTWATCH_OBSERVER": f"127.0.0.1:{free_port()}", "DISTWATCH_TOKEN": TOKEN}
    link = Link(observer, environ)
    try:
        told = await link.obey(order("root"))
        assert "DISTWATCH_OBSERVER" in told.why_not
        assert link.root is None
    finally:
        await link.close()


async def test_records_of_before_reach_a_root_that_comes_late(
    observer: Observer, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observer has run alone for a while: what it kept is sent, too."""
    observer.recording.record(ev.NotObserved(host=os.uname().nodename, what="x", why="early"))
    observer.recording.write_pending()
    monkeypatch.setenv("DISTWATCH_HOST", "elsewhere")
    folder = RunFolder(str(tmp_path / "far" / "r"))
    folder.create()
    far = Observer(folder)
    root = Link(far, {})
    came = asyncio.Event()
    far.sinks.append(
        lambda entry: (
            came.set()
            if isinstance(entry.event, ev.NotObserved) and entry.event.why == "early"
            else None
        )
    )
    try:
        place = (await root.obey(order("root"))).place
        await link.obey(order("leaf", place))
        await asyncio.wait_for(came.wait(), 60)
    finally:
        await root.close()
        await far.finish("the test ends")
