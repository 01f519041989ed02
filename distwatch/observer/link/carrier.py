"""What carries the link between hosts: ZeroMQ over TCP, encrypted and authenticated by CURVE.

Both sides derive both sides' keys from the token: a root is one who has the root's secret key, and a
leaf or viewer one who has theirs. ZeroMQ frames, encrypts and authenticates every message and bounds
its size; a stranger gets no message through, and is cut off after HANDSHAKE_WITHIN_S. Connections are
never renewed here: who resumes has to know that there was a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from distwatch.observer.background import end_tasks, in_background
from distwatch.observer.link.channel import END, WINDOW, Channel, LinkBroken, LinkRefused
from distwatch.observer.link.messages import FRAME_LIMIT
from distwatch.observer.link.root_address import RootAddress

HANDSHAKE_WITHIN_S = 5.0
_DOMAIN = "distwatch"
_QUEUED_IN = 8
"""Messages of one connection that wait to be read; more wait at their sender."""
_QUEUED_OUT = 4 * WINDOW
"""More than a side has under way when it keeps to the window: it never has to wait here."""
_CURVE_ADDS = 64
"""At least what encryption adds to a message's size."""
_LAST_WORDS_MS = 500
_ENDED_KEPT = 4096
_WRONG_TOKEN = "its token differs"
_FAILURES = {
    int(zmq.Event.HANDSHAKE_FAILED_PROTOCOL),
    int(zmq.Event.HANDSHAKE_FAILED_AUTH),
    int(zmq.Event.HANDSHAKE_FAILED_NO_DETAIL),
}


class _Keys(msgspec.Struct, frozen=True):
    """A CURVE key pair, in ZeroMQ's Z85 text."""

    public: bytes
    secret: bytes


@lru_cache(maxsize=16)
def _keys(token: bytes, side: str) -> _Keys:
    """The key pair of the `root` or the `leaf` (also a viewer's) under a token."""
    # Slow on purpose: who listens in on a handshake must not try short tokens by the million.
    seed = hashlib.scrypt(token, salt=f"distwatch {side}".encode(), n=1 << 14, r=8, p=1, dklen=32)
    secret = z85.encode(seed)
    return _Keys(public=zmq.curve_public(secret), secret=secret)


class _Knows:
    """ZeroMQ asks it whether a key may connect."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._key


class Listener:
    """The root's side: one socket for all hosts, and a Channel for each connection.

    Attributes:
        place: where it listens.
    """

    def __init__(
        self,
        token: bytes,
        on_channel: Callable[[Channel, str], None],
        on_refused: Callable[[str, str], None],
    ) -> None:
        """Calls `on_channel` with each new connection and its address, `on_refused` with an address
        ('': not known) and the reason why it did not become one."""
        self._token = token
        self._on_channel = on_channel
        self._on_refused = on_refused
        self._context = zmq.asyncio.Context()
        self._keeper = AsyncioAuthenticator(self._context)
        self._router = self._context.socket(zmq.ROUTER)
        self._channels: dict[bytes, Channel] = {}
        """By ZeroMQ's name of the connection."""
        self._names: dict[int, bytes] = {}
        """By file descriptor, which is all that ZeroMQ says of a connection that has ended."""
        self._overtaken: set[int] = set()
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        """Connections that are over here: what they still send is dropped."""
        self._knocking: dict[int, str] = {}
        """Addresses of connections in the handshake, by their file descriptor."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.place: RootAddress | None = None

    def start(self, address: str, port: int) -> RootAddress:
        """Starts listening; port 0 is any. Raises OSError where the address is not available."""
        router = self._router
        router.setsockopt(zmq.CURVE_SERVER, 1)
        _identify(router, _keys(self._token, "root"))
        router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN.encode())
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody without CURVE, however old it speaks
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        _set_bounds(router)
        self._keeper.start()
        self._keeper.configure_curve_callback(
            _DOMAIN, credentials_provider=_Knows(_keys(self._token, "leaf").public)
        )
        monitor = router.get_monitor_socket()
        try:
            router.bind(_url(address, str(port) if port else "*"))
        except zmq.ZMQError as error:
            self._shut()
            self._context.term()
            raise OSError(error.errno, os.strerror(error.errno or 0)) from error
        bound = str(router.get_string(zmq.LAST_ENDPOINT))
        self.place = RootAddress(address, int(bound.rpartition(":")[2]))
        self._task = asyncio.create_task(self._serve(monitor))
        return self.place

    async def close(self) -> None:
        """Ends every connection; what was sent before has a moment to arrive."""
        for channel in list(self._channels.values()):
            channel.abort()
        if self._task is not None:
            await asyncio.gather(*self._leaving)
            await end_tasks(self._task)
            self._shut()
            # Whatever ZeroMQ may wait for, an observer has to end.
            with contextlib.suppress(asyncio.TimeoutError):
                await in_background(self._context.term)

    def _shut(self) -> None:
        _hang_up(self._router, linger_ms=_LAST_WORDS_MS)
        self._keeper.stop()

    async def _serve(self, monitor: zmq.asyncio.Socket) -> None:
        poller = zmq.asyncio.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        # The same socket without asyncio's futures, which cost more than the messages.
        arrived: zmq.Socket[bytes] = zmq.Socket.shadow(self._router)
        while True:
            await poller.poll()
            # First what has ended, then what has arrived: a connection's last messages come
            # before its end, and are in the socket by the time that its end is told.
            gone = await self._note_events(monitor)
            self._take_messages(arrived)
            for descriptor in gone:
                self._drop(self._names.get(descriptor, b""))

    async def _note_events(self, monitor: zmq.asyncio.Socket) -> list[int]:
        """Returns the descriptors of connections that have ended."""
        gone: list[int] = []
        latest = ""
        while (event := await _next_event(monitor)) is not None:
            kind, value = event["event"], event["value"]
            if kind == zmq.Event.ACCEPTED:
                self._knocking[value] = _address_of(value)
            elif kind == zmq.Event.DISCONNECTED:
                self._knocking.pop(value, None)
                if value in self._overtaken:
                    self._overtaken.remove(value)
                else:
                    gone.append(value)
            elif kind in _FAILURES and (why := _refusal(kind, value)):
                # The event does not say whose handshake it was; the newest is the likely one.
                latest = next(reversed(self._knocking.values()), latest)
                self._on_refused(latest, why)
        return gone

    def _take_messages(self, arrived: zmq.Socket[bytes]) -> None:
        for _ in range(_QUEUED_IN * (len(self._channels) + 1)):
            try:
                name, *frames = arrived.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if (key := name.bytes) in self._ended:
                continue
            channel = self._channels.get(key) or self._welcome(key, name)
            channel.arrive(*(frame.bytes for frame in frames))

    def _welcome(self, key: bytes, name: zmq.Frame) -> Channel:
        descriptor = int(name.get(zmq.SRCFD))
        self._knocking.pop(descriptor, None)
        if (before := self._names.get(descriptor)) is not None:
            # The system gave the number to the next connection before its end was told.
            self._drop(before)
            self._overtaken.add(descriptor)
        self._names[descriptor] = key
        channel = Channel(partial(self._post, key), lambda: self._end(key))
        self._channels[key] = channel
        self._on_channel(channel, str(name.get("Peer-Address")).removeprefix("::ffff:"))
        return channel

    async def _post(self, name: bytes, *parts: bytes) -> None:
        await _hand_over(self._router, name, *parts)

    def _end(self, name: bytes) -> None:
        """Tells the other side that this connection is over: ZeroMQ cannot end one of many."""
        if name in self._channels:
            self._drop(name)
            task = asyncio.create_task(self._take_leave(name))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _take_leave(self, name: bytes) -> None:
        with contextlib.suppress(OSError):
            await self._post(name, *END)

    def _drop(self, name: bytes) -> None:
        if (channel := self._channels.pop(name, None)) is None:
            return
        self._names = {number: one for number, one in self._names.items() if one != name}
        channel.end(EOFError())
        self._ended[name] = None
        if len(self._ended) > _ENDED_KEPT:
            self._ended.popitem(last=False)


async def dial(place: RootAddress, token: bytes) -> Channel:
    """Connects to a root, at the first of its addresses where one answers.

    Raises:
        OSError, asyncio.TimeoutError: nobody answers there.
        LinkRefused: it has another token.
        LinkBroken: it is something else.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        place.host, place.port, type=socket.SOCK_STREAM
    )
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    for address in addresses[:-1]:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            return await _dial(_url(address, str(place.port)), token)
    return await _dial(_url(addresses[-1], str(place.port)), token)


async def _dial(url: str, token: bytes) -> Channel:
    dealer: zmq.asyncio.Socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    monitor = dealer.get_monitor_socket()
    try:
        dealer.setsockopt(zmq.CURVE_SERVERKEY, _keys(token, "root").public)
        _identify(dealer, _keys(token, "leaf"))
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, int(1000 * HANDSHAKE_WITHIN_S))
        _set_bounds(dealer)
        dealer.connect(url)
        await asyncio.wait_for(_connected(monitor), HANDSHAKE_WITHIN_S)
    except BaseException:
        _hang_up(dealer, linger_ms=0)
        raise
    return _Dialled(dealer, monitor).channel


class _Dialled:
    """The leaf's end of a connection, and the task that reads it."""

    def __init__(self, dealer: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket) -> None:
        self._dealer = dealer
        self._monitor = monitor
        self.channel = Channel(self._post, self._end)
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        poller = zmq.asyncio.Poller()
        poller.register(self._dealer, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        gone = False
        while not gone:
            await poller.poll()
            while (event := await _next_event(self._monitor)) is not None:
                gone = gone or event["event"] == zmq.Event.DISCONNECTED
            with contextlib.suppress(zmq.Again):
                while True:
                    self.channel.arrive(*await self._dealer.recv_multipart(zmq.NOBLOCK))
        self.channel.end(EOFError())
        _hang_up(self._dealer, linger_ms=0)

    async def _post(self, *parts: bytes) -> None:
        await _hand_over(self._dealer, *parts)

    def _end(self) -> None:
        self._task.cancel()
        _hang_up(self._dealer, linger_ms=_LAST_WORDS_MS)


async def _hand_over(one: zmq.asyncio.Socket, *parts: bytes) -> None:
    """Gives a message to ZeroMQ. Raises OSError where nobody is there, or where that side has left a
    queue unread that no window fills."""
    try:
        await one.send_multipart(parts, zmq.NOBLOCK)
    except zmq.ZMQError as error:
        raise ConnectionResetError("the connection is gone") from error


def _identify(one: zmq.asyncio.Socket, keys: _Keys) -> None:
    one.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    one.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def _set_bounds(one: zmq.asyncio.Socket) -> None:
    # Already now: what listens keeps the value of its start, and one without end waits for ever for what
    # was still to be sent on a connection that dies as the socket is closed.
    one.setsockopt(zmq.LINGER, _LAST_WORDS_MS)
    one.setsockopt(zmq.IPV6, 1)
    one.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT + _CURVE_ADDS)
    one.setsockopt(zmq.RCVHWM, _QUEUED_IN)
    one.setsockopt(zmq.SNDHWM, _QUEUED_OUT)
    one.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * HANDSHAKE_WITHIN_S))


def _hang_up(one: zmq.asyncio.Socket, *, linger_ms: int) -> None:
    if not one.closed:
        # In this order: ZeroMQ writes to its end of the monitor when that is switched off, and
        # waits for ever where nobody has the other end.
        monitor = one.get_monitor_socket()
        one.disable_monitor()
        monitor.close(linger=0)
        one.close(linger=linger_ms)


async def _connected(monitor: zmq.asyncio.Socket) -> None:
    """Returns when the handshake has succeeded."""
    reached = False
    while True:
        event = parse_monitor_message(await monitor.recv_multipart())
        kind = event["event"]
        if kind == zmq.Event.HANDSHAKE_SUCCEEDED:
            return
        if kind == zmq.Event.CONNECTED:
            reached = True
        elif kind in _FAILURES and kind != zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            raise LinkBroken("it does not use the link's protocol")
        elif kind in (zmq.Event.DISCONNECTED, zmq.Event.CLOSED):
            if reached:
                raise LinkRefused(f"it ended the handshake: {_WRONG_TOKEN}, or it is no root")
            raise ConnectionRefusedError("nobody accepts a connection there")


async def _next_event(monitor: zmq.asyncio.Socket) -> Any | None:
    try:
        return parse_monitor_message(await monitor.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        return None


def _refusal(kind: int, value: int) -> str:
    """Why a handshake failed; '' if nobody has to know."""
    if kind == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
        return ""  # it went away, or was too slow
    # A leaf of another token uses another key of the root: its first box cannot be opened.
    wrong_key = value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
    if wrong_key or kind == zmq.Event.HANDSHAKE_FAILED_AUTH:
        return _WRONG_TOKEN
    return "it does not use the link's protocol"


def _address_of(descriptor: int) -> str:
    """The peer of a connection that ZeroMQ holds; '' if it is over already, as a refused one soon is."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return str(copy.getpeername()[0]).removeprefix("::ffff:")
    except OSError:
        return ""


def _url(address: str, port: str) -> str:
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
