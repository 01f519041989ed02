"""Both sides prove that they know the token, and nothing can be slipped in between."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
import pytest_asyncio

from distwatch.observer.link.channel import Channel, LinkBroken, LinkRefused, accept, introduce
from distwatch.observer.link.messages import FRAME_LIMIT, VERSION, Challenge, Hello, Reply

TOKEN = b"0123456789abcdef"
HELLO = Hello(kind="leaf", run_id="r", host="b", node="n")
Outcome = Channel | Exception
Connect = Callable[..., Awaitable["Pair"]]


class Wire:
    """A leaf's connection, with every byte that the leaf wrote."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.written = b""
        write = writer.write

        def noted(data: bytes) -> None:
            self.written += data
            write(data)

        writer.write = noted  # type: ignore[method-assign, assignment]


class Pair:
    """Both ends, as far as they came."""

    def __init__(self, wire: Wire, root: asyncio.Future[Outcome]) -> None:
        self.wire = wire
        self.root = root
        self.leaf: Outcome | None = None

    async def channels(self) -> tuple[Channel, Channel]:
        root = await self.root
        assert isinstance(root, Channel)
        assert isinstance(self.leaf, Channel)
        return root, self.leaf


async def end(servers: list[asyncio.Server], writers: list[asyncio.StreamWriter]) -> None:
    for server in servers:
        server.close()
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def make(
        root_token: bytes = TOKEN, leaf_token: bytes | None = TOKEN, objection: str = ""
    ) -> Pair:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            try:
                channel, hello = await accept(reader, writer, root_token, lambda _: objection)
                assert hello == HELLO
                outcome.set_result(channel)
            except Exception as error:
                outcome.set_result(error)
                writer.close()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        port = servers[-1].sockets[0].getsockname()[1]
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
        writers.append(wire.writer)
        pair = Pair(wire, outcome)
        if leaf_token is not None:
            try:
                pair.leaf = await introduce(wire.reader, wire.writer, leaf_token, HELLO)
            except (LinkRefused, LinkBroken) as error:
                pair.leaf = error
        return pair

    yield make
    await end(servers, writers)


async def test_frames_go_both_ways(connect: Connect) -> None:
    pair = await connect()
    root, leaf = await pair.channels()
    await leaf.send(b"one")
    await leaf.send(b"")
    await root.send(b"back")
    assert [await root.receive(), await root.receive(), await leaf.receive()] == [
        b"one",
        b"",
        b"back",
    ]
    assert TOKEN not in pair.wire.written


async def test_a_wrong_token_is_refused_with_a_word(connect: Connect) -> None:
    pair = await connect(leaf_token=b"f" * 16)
    assert "its token differs" in str(await pair.root)
    assert isinstance(pair.leaf, LinkRefused)
    assert "its token differs" in str(pair.leaf)


async def test_an_objection_reaches_the_leaf(connect: Connect) -> None:
    pair = await connect(objection="another run")
    assert isinstance(await pair.root, LinkRefused)
    assert "another run" in str(pair.leaf)


async def test_a_root_that_does_not_know_the_token_is_no_root() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        for word in (Challenge(version=VERSION, nonce=b"n" * 32), Reply(proof=b"p" * 32)):
            body = msgspec.msgpack.encode(word)
            writer.write(struct.pack("<I", len(body)) + body)

    server = await asyncio.start_server(pose, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writers.append(writer)
    with pytest.raises(LinkRefused, match="does not know the token"):
        await introduce(reader, writer, TOKEN, HELLO)
    await end([server], writers)


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack("<I", 5) + b"\xc1abcd", struct.pack("<I", 4097)],
)
async def test_strangers_are_turned_away(connect: Connect, words: bytes) -> None:
    pair = await connect(leaf_token=None)
    pair.wire.writer.write(words)
    assert isinstance(await pair.root, LinkBroken)


async def test_a_frame_that_is_too_large_ends_it_unread(connect: Connect) -> None:
    pair = await connect()
    root, leaf = await pair.channels()
    with pytest.raises(ValueError, match="over the limit"):
        await leaf.send(bytes(FRAME_LIMIT + 1))
    pair.wire.writer.write(struct.pack("<I", FRAME_LIMIT + 1))
    with pytest.raises(LinkBroken, match="over the limit"):
        await root.receive()


@pytest.mark.parametrize("how", ["changed", "repeated", "reflected"])
async def test_what_was_tampered_with_is_not_taken(connect: Connect, how: str) -> None:
    pair = await connect()
    root, leaf = await pair.channels()
    before = len(pair.wire.written)
    await leaf.send(b"frame")
    assert await root.receive() == b"frame"
    sent = pair.wire.written[before:]
    if how == "reflected":
        # What the leaf said is put into its own ear.
        server_side = root._writer
        server_side.write(sent)
        with pytest.raises(LinkBroken, match="not authenticated"):
            await leaf.receive()
        return
    pair.wire.writer.write(sent if how == "repeated" else sent[:-1] + b"!")
    with pytest.raises(LinkBroken, match="not authenticated"):
        await root.receive()


async def test_time_in_which_the_loop_itself_was_busy_is_no_silence(connect: Connect) -> None:
    root, leaf = await (await connect()).channels()
    loop = asyncio.get_running_loop()
    now = loop.time
    ahead = 0.0
    loop.time = lambda: now() + ahead  # type: ignore[method-assign]
    try:
        hearing = asyncio.create_task(root.receive_within(5.0))
        await asyncio.sleep(0)
        await leaf.send(b"said in time")
        # As if nothing of this loop had run for a minute: its timers are all over.
        ahead = 60.0
        assert await hearing == b"said in time"
    finally:
        del loop.time


async def test_a_side_that_says_nothing_is_given_up(connect: Connect) -> None:
    root, _ = await (await connect()).channels()
    with pytest.raises(asyncio.TimeoutError):
        await root.receive_within(0.01)
