"""One connection between two hosts' observers, whatever carries it: messages in order, both ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from distwatch.observer.background import close_writer, end_tasks
from distwatch.observer.link.messages import FRAME_LIMIT

_CHUNK = 64 * 1024
WINDOW = 16
"""How many messages one side may send before the other has taken any of them."""
END = (b"",)
ROOM = (b"", b"")
"""What is no message: the connection's end, and that half a window of messages was taken."""
_SLICE_S = 0.5


class LinkRefused(Exception):
    """The other side cannot be trusted, or does not trust us; the text says why."""


class LinkBroken(Exception):
    """The received data is not of the link's protocol; the text says why."""


LINK_ERRORS = (OSError, EOFError, asyncio.TimeoutError, LinkRefused, LinkBroken)


class Channel:
    """The messages of an authenticated connection.

    The carrier reads all connections in one loop, and so may wait for none of them. Who does not read
    holds up its sender alone: that one sends no more than a window of messages ahead.
    """

    def __init__(self, post: Callable[..., Awaitable[None]], leave: Callable[[], None]) -> None:
        """`post` hands a message, in parts, to the carrier, and raises OSError when the connection is
        gone; `leave` ends the connection."""
        self._post = post
        self._leave = leave
        self._arrived: deque[bytes] = deque()
        self._may_send = WINDOW
        self._taken = 0
        self._over: Exception | None = None
        self._news = asyncio.Event()
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()

    async def send(self, body: bytes) -> None:
        """Sends one message; returns when the connection can take more.

        Raises:
            OSError: the connection is gone.
        """
        if not 0 < len(body) <= FRAME_LIMIT:
            raise ValueError(f"a message of {len(body)} bytes; the limit is {FRAME_LIMIT}")
        while not self._may_send and self._over is None:
            self._room.clear()
            await self._room.wait()
        if self._over is not None:
            raise ConnectionResetError("the connection has ended")
        self._may_send -= 1
        await self._post(body)

    async def send_at_once(self, body: bytes) -> bool:
        """Sends one message if the other side can take it now; else returns False. Raises as `send` does."""
        if not self._may_send and self._over is None:
            return False
        await self.send(body)
        return True

    async def receive_within(self, silent_s: float) -> bytes:
        """As `receive`, from a side that may be silent for so long.

        Only time in which this loop could receive counts: after a busy time, or a time in which the
        process did not run, it first reads what has arrived.

        Raises:
            asyncio.TimeoutError: nothing arrived.
        """
        left_s = silent_s
        while not self._arrived and self._over is None:
            if left_s <= 0:
                raise asyncio.TimeoutError
            left_s -= _SLICE_S
            await self._news_within(min(_SLICE_S, left_s + _SLICE_S))
        return await self.receive()

    async def _news_within(self, slice_s: float) -> None:
        """Returns when something has arrived, or after that time. A root does this thousands of times a
        second, so it makes no task of it."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(slice_s, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        self._news.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> bytes:
        """The next message.

        Raises:
            EOFError: the connection has ended.
            LinkBroken: what came is not of the link's protocol.
        """
        while not self._arrived:
            if self._over is not None:
                raise self._over
            self._news.clear()
            await self._news.wait()
        self._taken += 1
        if self._taken % (WINDOW // 2) == 0 and self._over is None:
            with contextlib.suppress(OSError):
                await self._post(*ROOM)
        return self._arrived.popleft()

    def abort(self) -> None:
        """Ends the connection at once; pending calls fail."""
        self.end(EOFError())
        self._leave()

    # ---- what the carrier calls ----------------------------------------------------------------

    def arrive(self, *parts: bytes) -> None:
        """Takes what has come from the other side, in its parts."""
        if self._over is not None:
            return
        if parts == END:
            self.end(EOFError())
        elif parts == ROOM:
            self._may_send = min(WINDOW, self._may_send + WINDOW // 2)
            self._room.set()
        elif len(parts) != 1:
            self.end(LinkBroken("it does not use the link's protocol"))
        elif len(self._arrived) >= WINDOW:
            self.end(LinkBroken(f"it sends more than {WINDOW} messages ahead"))
        else:
            self._arrived.append(parts[0])
            self._wake()

    def end(self, why: Exception) -> None:
        """The connection has ended: what has arrived can still be received, and then `why` is raised."""
        self._over = self._over or why
        self._wake()
        self._room.set()


async def join(
    channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Passes bytes both ways, between a viewer and the root's socket, until either side has ended."""
    both = [
        asyncio.create_task(_to_channel(reader, channel)),
        asyncio.create_task(_from_channel(channel, writer)),
    ]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(*both)
        await close_writer(writer)
        channel.abort()


async def _to_channel(reader: asyncio.StreamReader, channel: Channel) -> None:
    while chunk := await reader.read(_CHUNK):
        await channel.send(chunk)


async def _from_channel(channel: Channel, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await channel.receive())
        await writer.drain()
