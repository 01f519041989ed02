"""A leaf becomes the root of a rack, goes where it is sent, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from distwatch.observer.daemon import Observer
from distwatch.observer.link import messages as say
from distwatch.observer.link.carrier import Listener
from distwatch.observer.link.channel import Channel
from distwatch.observer.link.handshake import accept
from distwatch.observer.link.leaf import Leaf
from distwatch.observer.link.root_address import RootAddress, parse_place
from distwatch.runfolder import RunFolder
from tests.support.ranks import free_port

TOKEN = b"0123456789abcdef"
HERE = "127.0.0.1"


class TestedRoot:
    """A root that takes a leaf, says what the test says, and does nothing else."""

    __test__ = False

    def __init__(self) -> None:
        self._channels: asyncio.Queue[Channel] = asyncio.Queue()
        self._listener = Listener(TOKEN, self._welcome, lambda *_: None)
        self.place: RootAddress = self._listener.start(HERE, 0)

    def _welcome(self, channel: Channel, _: str) -> None:
        self._channels.put_nowait(channel)

    async def meet(self) -> tuple[say.Hello, Channel]:
        """The next connection, which may begin to send."""
        channel = await self._channels.get()
        hello = await accept(channel, lambda _: "")
        await channel.send(say.encode(say.Resume(number=1)))
        return hello, channel

    async def close(self) -> None:
        await self._listener.close()


@pytest_asyncio.fixture
async def root() -> AsyncIterator[TestedRoot]:
    made = TestedRoot()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def leaf(folder: RunFolder, root: TestedRoot) -> AsyncIterator[Leaf]:
    observer = Observer(folder)
    made = Leaf(observer, root.place, TOKEN, rack="a")
    made.start()
    yield made
    await made.retire()
    await observer.finish("the test ends")


async def test_it_becomes_the_root_of_its_rack_and_comes_back_as_one(
    root: TestedRoot, leaf: Leaf
) -> None:
    hello, channel = await root.meet()
    assert (hello.rack, hello.place) == ("a", "")
    await channel.send(say.encode(say.Serve(address=HERE)))
    again, _ = await root.meet()
    assert parse_place(again.place).host == HERE
    assert parse_place(again.place).port > 0


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "not an address", "192.0.2.1"])
async def test_it_listens_at_one_address_of_its_own_or_says_why_not(
    root: TestedRoot, leaf: Leaf, address: str
) -> None:
    _, channel = await root.meet()
    await channel.send(say.encode(say.Serve(address=address)))
    while not isinstance(told := say.decode_from_leaf(await channel.receive()), say.Unable):
        pass
    assert f"cannot listen at {address!r}" in told.why


async def test_it_goes_where_it_is_sent_and_comes_back_from_where_nobody_is(
    root: TestedRoot, leaf: Leaf
) -> None:
    other = TestedRoot()
    _, channel = await root.meet()
    await channel.send(say.encode(say.Move(place=str(other.place))))
    _, there = await other.meet()
    there.abort()
    hello, channel = await root.meet()
    assert hello.unreachable == str(other.place)
    await other.close()
    nobody = f"{HERE}:{free_port()}"
    await channel.send(say.encode(say.Move(place=nobody)))
    hello, _ = await root.meet()
    assert hello.unreachable == nobody
