"""Passes a viewer's bytes through to the root's socket: on a leaf's host it sees the whole run."""

from __future__ import annotations

import asyncio
import contextlib

from distwatch.observer.background import end_tasks
from distwatch.observer.link.channel import Channel

_CHUNK = 64 * 1024


async def join_local(channel: Channel, path: str) -> None:
    """The root's end: joins an authenticated connection to the observer's own socket.

    Raises:
        OSError: the socket does not answer.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    await join(channel, reader, writer)


async def join(
    channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Passes bytes both ways until either side has ended."""
    both = [
        asyncio.create_task(_to_channel(reader, channel)),
        asyncio.create_task(_from_channel(channel, writer)),
    ]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(*both)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await channel.close()


async def _to_channel(reader: asyncio.StreamReader, channel: Channel) -> None:
    while chunk := await reader.read(_CHUNK):
        await channel.send(chunk)


async def _from_channel(channel: Channel, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await channel.receive())
        await writer.drain()
