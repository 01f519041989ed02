"""A TCP connection on which both sides have proved that they know the token.

The token is never sent. The root sends a nonce; the leaf answers with a nonce of its own, who it
is, and an HMAC-SHA256 over all three; the root answers with its HMAC. Every frame after that is
a u32 length, a 16-byte HMAC over its place in the connection, and the body: nothing can be
changed, left out, repeated or added on the way. It is not encrypted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from typing import TypeVar

import msgspec

from distwatch.observer.link.messages import (
    FRAME_LIMIT,
    VERSION,
    Answer,
    Challenge,
    Hello,
    Reply,
)
from distwatch.visible_text import visible_line

HANDSHAKE_LIMIT = 4096
HANDSHAKE_WITHIN_S = 5.0
_LENGTH = struct.Struct("<I")
_COUNT = struct.Struct("<QI")
_SLICE_S = 0.5
_NONCE = 32
_TAG = 16
_Word = TypeVar("_Word", bound=msgspec.Struct)


class LinkRefused(Exception):
    """The other side cannot be trusted, or does not trust us; the text says why."""


class LinkBroken(Exception):
    """What came is no frame of this connection; the text says why."""


class Channel:
    """Frames of a proved connection. `key` is of this connection alone."""

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
        """Sends one frame; returns once the connection can take more.

        Raises:
            OSError: the connection is gone.
        """
        if len(body) > FRAME_LIMIT:
            raise ValueError(f"a frame of {len(body)} bytes is over the limit of {FRAME_LIMIT}")
        tag = _tag(self._out, self._sent, body)
        self._sent += 1
        self._writer.write(_LENGTH.pack(len(body)) + tag + body)
        await self._writer.drain()

    async def receive_within(self, silent_s: float) -> bytes:
        """As `receive`, of a side that may be silent for so long.

        Only time in which this loop was there to hear counts: whoever was busy itself, or was not
        run for a while, first looks at what has come meanwhile.

        Raises:
            asyncio.TimeoutError: nothing came.
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
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        if length > FRAME_LIMIT:
            raise LinkBroken(f"a frame of {length} bytes is over the limit of {FRAME_LIMIT}")
        tag = await self._reader.readexactly(_TAG)
        body = await self._reader.readexactly(length)
        if not hmac.compare_digest(tag, _tag(self._in, self._received, body)):
            raise LinkBroken("a frame does not bear the other side's mark")
        self._received += 1
        return body

    def abort(self) -> None:
        """Ends the connection at once; whoever waits on it is told."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def accept(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    token: bytes,
    objection: Callable[[Hello], str],
) -> tuple[Channel, Hello]:
    """The root's side; the caller bounds its time.

    Args:
        objection: why one who knows the token is not let in all the same; '': it is.

    Raises:
        LinkRefused: the other side does not know the token, or there is an objection.
        LinkBroken: it does not speak this protocol.
    """
    nonce = secrets.token_bytes(_NONCE)
    _write(writer, Challenge(version=VERSION, nonce=nonce))
    answer = await _read(reader, Answer)
    if len(answer.nonce) != _NONCE:
        raise LinkBroken("its nonce has another length")
    parts = (nonce, answer.nonce, answer.hello)
    refused = ""
    if not hmac.compare_digest(answer.proof, _mac(token, b"leaf", *parts)):
        refused = "its token is another"
        hello = None
    else:
        hello = _hello(answer.hello)
        refused = objection(hello)
    if hello is None or refused:
        _write(writer, Reply(refused=refused))
        await writer.drain()
        raise LinkRefused(refused)
    _write(writer, Reply(proof=_mac(token, b"root", *parts)))
    await writer.drain()
    key = _mac(token, b"session", *parts)
    return Channel(reader, writer, key, side=b"root", other=b"leaf"), hello


async def introduce(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: bytes, hello: Hello
) -> Channel:
    """The leaf's side; the caller bounds its time. Raises as `accept` does."""
    challenge = await _read(reader, Challenge)
    if challenge.version != VERSION:
        raise LinkRefused(f"it speaks version {challenge.version} of the link, we {VERSION}")
    if len(challenge.nonce) != _NONCE:
        raise LinkBroken("its nonce has another length")
    nonce, told = secrets.token_bytes(_NONCE), msgspec.msgpack.encode(hello)
    parts = (challenge.nonce, nonce, told)
    _write(writer, Answer(nonce=nonce, hello=told, proof=_mac(token, b"leaf", *parts)))
    await writer.drain()
    reply = await _read(reader, Reply)
    if reply.refused:
        raise LinkRefused(f"it refuses: {visible_line(reply.refused[:300])}")
    if not hmac.compare_digest(reply.proof, _mac(token, b"root", *parts)):
        raise LinkRefused("it does not know the token itself")
    key = _mac(token, b"session", *parts)
    return Channel(reader, writer, key, side=b"leaf", other=b"root")


def _hello(body: bytes) -> Hello:
    try:
        return msgspec.msgpack.decode(body, type=Hello)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkBroken(f"its hello cannot be read: {error}") from error


def _write(writer: asyncio.StreamWriter, word: msgspec.Struct) -> None:
    body = msgspec.msgpack.encode(word)
    writer.write(_LENGTH.pack(len(body)) + body)


async def _read(reader: asyncio.StreamReader, kind: type[_Word]) -> _Word:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > HANDSHAKE_LIMIT:
        raise LinkBroken(f"its first word of {length} bytes is over the limit of {HANDSHAKE_LIMIT}")
    body = await reader.readexactly(length)
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LinkBroken(f"it does not speak the link's protocol: {error}") from error


def _mac(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    # Lengths go in, too: no two sequences of parts give the same bytes.
    mac = hmac.new(key, b"distwatch link %d %s" % (VERSION, purpose), hashlib.sha256)
    for part in parts:
        mac.update(_LENGTH.pack(len(part)) + part)
    return mac.digest()


def _tag(key: bytes, count: int, body: bytes) -> bytes:
    mac = hmac.new(key, _COUNT.pack(count, len(body)), hashlib.sha256)
    mac.update(body)
    return mac.digest()[:_TAG]
