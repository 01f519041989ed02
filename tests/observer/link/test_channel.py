"""Only who knows the token can send a message, and both ends say why the others do not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
import pytest_asyncio
import zmq
import zmq.asyncio

from distwatch.observer.link import carrier
from distwatch.observer.link.carrier import Listener, dial
from distwatch.observer.link.channel import WINDOW, Channel, LinkBroken, LinkRefused
from distwatch.observer.link.handshake import accept, connect
from distwatch.observer.link.messages import FRAME_LIMIT, Hello
from distwatch.observer.link.root_address import RootAddress
from tests.support.ranks import free_port

TOKEN = b"0123456789abcdef"
HELLO = Hello(kind="leaf", run_id="r", host="b", node="n")
Pair = tuple[Channel, Channel]


class RootSide:
    """A listener, who came to it, and whom it refused."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Channel] = asyncio.Queue()
        self.refused: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.listener = Listener(
            TOKEN,
            lambda channel, address: self.came.put_nowait(channel),
            lambda address, why: self.refused.put_nowait((address, why)),
        )
        self.place = self.listener.start("127.0.0.1", 0)


@pytest_asyncio.fixture
async def root() -> AsyncIterator[RootSide]:
    made = RootSide()
    yield made
    await made.listener.close()


@pytest_asyncio.fixture
async def pair(root: RootSide) -> AsyncIterator[Callable[[], Awaitable[Pair]]]:
    made: list[Channel] = []

    async def make() -> Pair:
        leaf = await dial(root.place, TOKEN)
        made.append(leaf)
        await leaf.send(b"first")
        other = await root.came.get()
        assert await other.receive() == b"first"
        return other, leaf

    yield make
    for one in made:
        one.abort()


Make = Callable[[], Awaitable[Pair]]


async def test_messages_go_both_ways_in_order(pair: Make) -> None:
    there, leaf = await pair()

    async def send_numbers(channel: Channel) -> None:
        for number in range(100):
            await channel.send(b"%d" % number)

    sending = [asyncio.create_task(send_numbers(one)) for one in (there, leaf)]
    for one in (there, leaf):
        assert [await one.receive() for _ in range(100)] == [b"%d" % n for n in range(100)]
    await asyncio.gather(*sending)


async def test_nothing_of_it_can_be_read_on_the_way(root: RootSide) -> None:
    seen = bytearray()
    passed: list[asyncio.Task[None]] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1 << 16):
                seen.extend(chunk)
                writer.write(chunk)
            writer.close()

    async def overhear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", root.place.port)
        passed.append(asyncio.create_task(pass_on(there[0], writer)))
        passed.append(asyncio.create_task(pass_on(reader, there[1])))

    server = await asyncio.start_server(overhear, "127.0.0.1", 0)
    leaf = await dial(RootAddress("127.0.0.1", server.sockets[0].getsockname()[1]), TOKEN)
    await leaf.send(b"a stack that nobody else should read")
    other = await root.came.get()
    assert await other.receive() == b"a stack that nobody else should read"
    leaf.abort()
    await asyncio.wait(passed)
    server.close()
    assert b"nobody else" not in seen
    assert TOKEN not in seen


async def test_a_wrong_token_is_refused_with_a_word_at_both_ends(root: RootSide) -> None:
    with pytest.raises(LinkRefused, match="its token differs"):
        await dial(root.place, b"f" * 16)
    address, why = await root.refused.get()
    assert address in ("127.0.0.1", "")  # ZeroMQ may have closed it before its event is read
    assert why == "its token differs"
    assert root.came.empty()


async def test_a_root_that_does_not_know_the_token_gets_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It speaks CURVE, with a key of its own."""
    context = zmq.asyncio.Context()
    poser = context.socket(zmq.ROUTER)
    poser.curve_server = True
    poser.curve_publickey, poser.curve_secretkey = zmq.curve_keypair()
    port = poser.bind_to_random_port("tcp://127.0.0.1")
    try:
        with pytest.raises(LinkRefused, match="its token differs"):
            await dial(RootAddress("127.0.0.1", port), TOKEN)
    finally:
        poser.close(linger=0)
        context.term()


@pytest.mark.parametrize("how", ["no keys", "other keys", "old ZeroMQ", "HTTP"])
async def test_no_message_of_a_stranger_arrives(root: RootSide, how: str, pair: Make) -> None:
    context = zmq.asyncio.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    if how == "other keys":
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = carrier._keys(TOKEN, "root").public
    raw: asyncio.StreamWriter | None = None
    try:
        if how in ("no keys", "other keys"):
            monitor = stranger.get_monitor_socket()
            stranger.connect(f"tcp://127.0.0.1:{root.place.port}")
            await stranger.send(b"\x80")
            while (await carrier_event(monitor)) not in (
                zmq.Event.DISCONNECTED,
                zmq.Event.HANDSHAKE_FAILED_AUTH,
                zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
            ):
                pass
        else:
            reader, raw = await asyncio.open_connection("127.0.0.1", root.place.port)
            raw.write(b"\x01\x00\x03\x00abc" if how == "old ZeroMQ" else b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while await reader.read(4096):
                    pass
        await pair()  # who knows the token is served meanwhile
        assert root.came.empty()
    finally:
        if raw is not None:
            raw.close()
        carrier._hang_up(stranger, linger_ms=0)
        await asyncio.to_thread(context.term)


async def carrier_event(monitor: zmq.asyncio.Socket) -> int:
    from zmq.utils.monitor import parse_monitor_message

    return int(parse_monitor_message(await monitor.recv_multipart())["event"])


async def test_a_stranger_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "HANDSHAKE_WITHIN_S", 0.2)
    root = RootSide()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", root.place.port)
        while await reader.read(4096):
            pass
        writer.close()
        assert root.came.empty()
        assert root.refused.empty()
    finally:
        await root.listener.close()


async def test_where_nobody_listens_or_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionRefusedError, match="nobody accepts"):
        await dial(RootAddress("127.0.0.1", free_port()), TOKEN)
    monkeypatch.setattr(carrier, "HANDSHAKE_WITHIN_S", 0.2)
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((LinkRefused, asyncio.TimeoutError)):
            await dial(RootAddress("127.0.0.1", port), TOKEN)
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_the_end_of_one_side_is_seen_at_the_other_after_its_last_word(pair: Make) -> None:
    there, leaf = await pair()
    await leaf.send(b"last")
    leaf.abort()
    assert await there.receive() == b"last"
    with pytest.raises(EOFError):
        await there.receive()
    with pytest.raises(OSError, match="ended"):
        await there.send(b"too late")
    there, leaf = await pair()
    await there.send(b"last")
    there.abort()
    assert await leaf.receive() == b"last"
    with pytest.raises(EOFError):
        await leaf.receive()


async def test_a_root_that_ends_is_seen_at_once(root: RootSide, pair: Make) -> None:
    _, leaf = await pair()
    await root.listener.close()
    with pytest.raises(EOFError):
        await leaf.receive()


async def test_what_is_still_to_be_sent_is_bounded_from_the_start(root: RootSide) -> None:
    """ZeroMQ's listener keeps the linger that its socket had at `bind`. Without a bound, a connection that
    dies while the root closes keeps it waiting for ever: in 1 of 10 ends with 30 leaves."""
    assert 0 <= root.listener._router.get(zmq.LINGER) <= 1000


async def test_who_does_not_read_holds_up_its_sender_and_nobody_else(
    root: RootSide, pair: Make
) -> None:
    slow, fast = await pair(), await pair()
    sending = asyncio.create_task(_send_many(slow[0], bytes(FRAME_LIMIT), 1000))
    for number in range(50):
        await fast[0].send(b"%d" % number)
        assert await fast[1].receive() == b"%d" % number
    assert not sending.done()
    sending.cancel()


async def test_who_is_not_read_holds_up_nobody_else_and_loses_nothing(
    root: RootSide, pair: Make
) -> None:
    """A root's session may wait for its disk, or for a leaf that does not read."""
    slow, fast = await pair(), await pair()
    sending = asyncio.create_task(_send_many(slow[1], bytes(FRAME_LIMIT), 3 * WINDOW))
    for number in range(50):
        await fast[1].send(b"%d" % number)
        assert await fast[0].receive() == b"%d" % number
    assert not sending.done()
    for _ in range(3 * WINDOW):
        assert len(await slow[0].receive()) == FRAME_LIMIT
    await sending


async def test_who_sends_more_than_was_asked_for_is_cut_off(root: RootSide, pair: Make) -> None:
    bold, other = await pair(), await pair()
    for _ in range(WINDOW + 1):
        await bold[1]._post(b"x")  # from one that does not keep to it
    with pytest.raises(OSError, match="has ended"):
        await _send_many(bold[0], b"y", WINDOW + 1)  # waits until the root's side has them all
    for _ in range(WINDOW):
        assert await bold[0].receive() == b"x"
    with pytest.raises(LinkBroken, match=f"sends more than {WINDOW} messages ahead"):
        await bold[0].receive()
    await other[1].send(b"still here")
    assert await other[0].receive() == b"still here"


async def _send_many(channel: Channel, body: bytes, many: int) -> None:
    for _ in range(many):
        await channel.send(body)


async def test_messages_have_a_size(pair: Make) -> None:
    there, leaf = await pair()
    for body in (b"", bytes(FRAME_LIMIT + 1)):
        with pytest.raises(ValueError, match="the limit is"):
            await leaf.send(body)
    await leaf._post(bytes(FRAME_LIMIT + 100))  # from one that does not keep to it
    with pytest.raises(EOFError):
        await there.receive()


async def test_the_first_message_says_who_connects(root: RootSide) -> None:
    joining = asyncio.create_task(connect(root.place, TOKEN, HELLO))
    assert await accept(await root.came.get(), lambda _: "") == HELLO
    (await joining).abort()


async def test_an_objection_reaches_the_leaf(root: RootSide) -> None:
    joining = asyncio.create_task(connect(root.place, TOKEN, HELLO))
    with pytest.raises(LinkRefused, match="another run"):
        await accept(await root.came.get(), lambda _: "another run")
    with pytest.raises(LinkRefused, match="another run"):
        await joining


async def test_another_version_is_named_at_both_ends(root: RootSide) -> None:
    hello = msgspec.structs.replace(HELLO, version=9)
    joining = asyncio.create_task(connect(root.place, TOKEN, hello))
    with pytest.raises(LinkRefused, match="uses version 9"):
        await accept(await root.came.get(), lambda _: "")
    with pytest.raises(LinkRefused, match="uses version 9"):
        await joining


@pytest.mark.parametrize("body", [b"GET /", b"\xc1abcd", bytes(4097)])
async def test_who_says_something_else_first_is_turned_away(root: RootSide, body: bytes) -> None:
    leaf = await dial(root.place, TOKEN)
    await leaf.send(body)
    with pytest.raises(LinkBroken):
        await accept(await root.came.get(), lambda _: "")
    leaf.abort()


async def test_time_in_which_the_loop_itself_was_busy_is_no_silence(pair: Make) -> None:
    root, leaf = await pair()
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


async def test_a_side_that_says_nothing_is_given_up(pair: Make) -> None:
    root, _ = await pair()
    with pytest.raises(asyncio.TimeoutError):
        await root.receive_within(0.01)
