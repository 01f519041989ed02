"""What an observer tells a viewer, and what a viewer asks: msgpack of these types, and nothing else."""

from __future__ import annotations

import msgspec

from distwatch.observer.link.messages import Batch, CaughtUp, Message
from distwatch.observer.link.orders import Order

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


unpack = msgspec.msgpack.Decoder(Batch | CaughtUp | PicturePart | Answer).decode
"""The message of a frame; raises msgspec.DecodeError on anything else."""
