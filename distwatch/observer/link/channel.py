"""A TCP connection on which both sides have proved that they know the token.

The token is never sent. The root sends a nonce; the leaf answers with its own nonce, its identity,
and an HMAC-SHA256 over all three; the root answers with its HMAC. Every later frame is a u32 length,
a 16-byte HMAC over its position in the connection, and the body: nobody on the way can change,
remove, repeat or add frames. The connection is not encrypted.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from typing import TypeVar

import msgspec

from distwatch.observer.background import close_writer, end_tasks
from distwatch.observer.link.messages import (
    FRAME_LIMIT,
    VERSION,
    Answer,
    Challenge,
    Hello,
    Reply,
)
from distwatch.observer.link.root_address import RootAddress
from distwatch.observer_socket import LENGTH, framed
from distwatch.visible_text import visible_line

HANDSHAKE_LIMIT = 4096
HANDSHAKE_WITHIN_S = 5.0
_CHUNK = 64 * 1024
_COUNT = struct.Struct("<QI")
_SLICE_S = 0.5
_NONCE = 32
_TAG = 16
_Word = TypeVar("_Word", bound=msgspec.Struct)


class LinkRefused(Exception):
    """The other side cannot be trusted, or does not trust us; the text says why."""


class LinkBroken(Exception):
    """The received data is not a frame of this connection; the text says why."""


LINK_ERRORS = (OSError, EOFError, asyncio.TimeoutError, LinkRefused, LinkBroken)


class Channel:
    """The frames of an authenticated connection. `key` belongs only to this connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        key: bytes,
        *,
        side: bytes,
        other: bytes,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._out, self._in = _mac(key, b"from", side), _mac(key, b"from", other)
        self._sent = 0
        self._received = 0

    async def send(self, body: bytes) -> None:
        """Sends one frame; returns when the connection can take more.

        Raises:
            OSError: the connection is gone.
        """
        if len(body) > FRAME_LIMIT:
            raise ValueError(f"a frame of {len(body)} bytes is over the limit of {FRAME_LIMIT}")
        tag = _tag(self._out, self._sent, body)
        self._sent += 1
        self._writer.write(LENGTH.pack(len(body)) + tag + body)
        await self._writer.drain()

    async def receive_within(self, silent_s: float) -> bytes:
        """As `receive`, from a side that may be silent for so long.

        Only time in which this loop could receive counts: after a busy time, or a time in which the
        process did not run, it first reads what has arrived.

        Raises:
            asyncio.TimeoutError: nothing arrived.
        """
        receiving = asyncio.ensure_future(self.receive())
        try:
            left_s = silent_s
            while left_s > 0:
                slice_s = min(_SLICE_S, left_s)
                done, _ = await asyncio.wait([receiving], timeout=slice_s)
                if done:
                    return receiving.result()
                left_s -= slice_s
            raise asyncio.TimeoutError
        finally:
            receiving.cancel()

    async def receive(self) -> bytes:
        """The next frame's body.

        Raises:
            LinkBroken: it is longer than FRAME_LIMIT, or not from the other side.
            asyncio.IncompleteReadError: the connection has ended.
        """
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if length > FRAME_LIMIT:
            raise LinkBroken(f"a frame of {length} bytes is over the limit of {FRAME_LIMIT}")
        tag = await self._reader.readexactly(_TAG)
        body = await self._reader.readexactly(length)
        if not hmac.compare_digest(tag, _tag(self._in, self._received, body)):
            raise LinkBroken("a frame is not authenticated by the other side")
        self._received += 1
        return body

    def abort(self) -> None:
        """Ends the connection at once; pending calls fail."""
        self._writer.transport.abort()

    async def close(self) -> None:
        await close_writer(self._writer)


async def accept(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    token: bytes,
    objection: Callable[[Hello], str],
) -> tuple[Channel, Hello]:
    """The root's side of the handshake; the caller sets the time limit.

    Args:
        objection: why a side that knows the token is refused nevertheless; '': it is accepted.

    Raises:
        LinkRefused: the other side does not know the token, or there is an objection.
        LinkBroken: it does not speak this protocol.
    """
    nonce = secrets.token_bytes(_NONCE)
    writer.write(framed(Challenge(version=VERSION, nonce=nonce)))
    answer = await _read(reader, Answer)
    if len(answer.nonce) != _NONCE:
        raise LinkBroken("its nonce has another length")
    parts = (nonce, answer.nonce, answer.hello)
    refused = ""
    if not hmac.compare_digest(answer.proof, _mac(token, b"leaf", *parts)):
        refused = "its token differs"
        hello = None
    else:
        hello = _decoded(answer.hello, Hello)
        refused = objection(hello)
    if hello is None or refused:
        writer.write(framed(Reply(refused=refused)))
        await writer.drain()
        raise LinkRefused(refused)
    writer.write(framed(Reply(proof=_mac(token, b"root", *parts))))
    await writer.drain()
    key = _mac(token, b"session", *parts)
    return Channel(reader, writer, key, side=b"root", other=b"leaf"), hello


async def connect(place: RootAddress, token: bytes, hello: Hello) -> Channel:
    """Connects to a root as a leaf or a viewer.

    Raises:
        LINK_ERRORS: the root does not answer, or refuses.
    """
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection(place.host, place.port), HANDSHAKE_WITHIN_S
    )
    try:
        return await asyncio.wait_for(introduce(reader, writer, token, hello), HANDSHAKE_WITHIN_S)
    except BaseException:
        writer.transport.abort()
        raise


async def introduce(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: bytes, hello: Hello
) -> Channel:
    """The leaf's side of the handshake; the caller sets the time limit. Raises as `accept` does."""
    challenge = await _read(reader, Challenge)
    if challenge.version != VERSION:
        raise LinkRefused(f"it uses version {challenge.version} of the link; this is {VERSION}")
    if len(challenge.nonce) != _NONCE:
        raise LinkBroken("its nonce has another length")
    nonce, told = secrets.token_bytes(_NONCE), msgspec.msgpack.encode(hello)
    parts = (challenge.nonce, nonce, told)
    writer.write(framed(Answer(nonce=nonce, hello=told, proof=_mac(token, b"leaf", *parts))))
    await writer.drain()
    reply = await _read(reader, Reply)
    if reply.refused:
        raise LinkRefused(f"it refuses: {visible_line(reply.refused[:300])}")
    if not hmac.compare_digest(reply.proof, _mac(token, b"root", *parts)):
        raise LinkRefused("it does not know the token itself")
    key = _mac(token, b"session", *parts)
    return Channel(reader, writer, key, side=b"leaf", other=b"root")


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
        await channel.close()


async def _to_channel(reader: asyncio.StreamReader, channel: Channel) -> None:
    while chunk := await reader.read(_CHUNK):
        await channel.send(chunk)


async def _from_channel(channel: Channel, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await channel.receive())
        await writer.drain()


async def _read(reader: asyncio.StreamReader, kind: type[_Word]) -> _Word:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > HANDSHAKE_LIMIT:
        raise LinkBroken(f"its message of {length} bytes is over the limit of {HANDSHAKE_LIMIT}")
    return _decoded(await reader.readexactly(length), kind)


def _decoded(body: bytes, kind: type[_Word]) -> _Word:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LinkBroken(f"it does not use the link's protocol: {error}") from error


def _mac(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    # The lengths are included: no two sequences of parts give the same bytes.
    mac = hmac.new(key, b"distwatch link %d %s" % (VERSION, purpose), hashlib.sha256)
    for part in parts:
        mac.update(LENGTH.pack(len(part)) + part)
    return mac.digest()


def _tag(key: bytes, count: int, body: bytes) -> bytes:
    mac = hmac.new(key, _COUNT.pack(count, len(body)), hashlib.sha256)
    mac.update(body)
    return mac.digest()[:_TAG]
