"""What an observer tells a viewer, and what a viewer asks: msgpack of these types, and nothing else."""

from __future__ import annotations

import asyncio
import zlib

import msgspec

from distwatch.observer.link.messages import FRAME_LIMIT, Batch, CaughtUp, Message, encode
from distwatch.observer.link.orders import Order
from distwatch.observer_socket import LENGTH

PART_SIZE = 256 * 1024
PICTURE_LIMIT = 64 * 1024 * 1024


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A viewer's request: `events` once, `dump` at any time.

    A rank asks for the `verdict`; `distwatch up` gives the observer a `part` among several.
    """

    want: str
    reason: str = ""
    order: Order | None = None
    form: str = ""
    """The form of the state that this viewer reads: in any other, it gets all records instead."""


class PicturePart(Message, frozen=True, tag="picture_part"):
    """A part of the sealed state; all that was told before is in it, too."""

    content: bytes
    last: bool = False


class Answer(Message, frozen=True, tag="answer"):
    """To a request for a dump."""

    text: str


class PackedBatch(Message, frozen=True, tag="packed_batch"):
    """A batch, compressed: ranks of one job tell much the same, and a busy observer sends few bytes in a turn."""

    content: bytes


_Told = Batch | CaughtUp | PicturePart | PackedBatch | Answer
_decode = msgspec.msgpack.Decoder(_Told).decode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode


def pack(batch: Batch) -> PackedBatch:
    return PackedBatch(content=zlib.compress(encode(batch), 1))


def unpack(body: bytes) -> Batch | CaughtUp | PicturePart | Answer:
    """The message of a frame.

    Raises:
        msgspec.DecodeError: it is anything else.
        ValueError: it is longer than a message may be.
    """
    message = _decode(body)
    if not isinstance(message, PackedBatch):
        return message
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(message.content, FRAME_LIMIT)
    except zlib.error as error:
        raise ValueError(f"a batch that cannot be inflated: {error}") from error
    if inflater.unconsumed_tail:
        raise ValueError(f"a batch of more than {FRAME_LIMIT} bytes")
    return _decode_batch(inflated)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The body of one frame.

    Raises:
        ValueError: it is longer than FRAME_LIMIT.
        asyncio.IncompleteReadError: the other side is gone.
    """
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > FRAME_LIMIT:
        raise ValueError(f"a frame of {length} bytes is over the limit of {FRAME_LIMIT}")
    return await reader.readexactly(length)
