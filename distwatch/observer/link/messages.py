"""The messages between observers of one run: msgpack of these types, and nothing else."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.frames import MAX_PAYLOAD, FileHeader

VERSION = 5
FRAME_LIMIT = 1024 * 1024
BATCH_SIZE = FRAME_LIMIT // 4
"""A batch is sent at this size; one more record still fits the limit."""
assert BATCH_SIZE + 2 * MAX_PAYLOAD < FRAME_LIMIT


class Message(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="say", forbid_unknown_fields=True
):
    """Base of the messages after both sides have authenticated."""


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A journal record as it is on the leaf's disk; with `seq` 0, a live value."""

    stream: int
    """Index into the batch's headers."""
    seq: int
    time_ns: int
    payload: bytes


class Batch(Message, frozen=True, tag="batch"):
    """`after`: the number of the `Resume` that this continues from."""

    after: int
    live: int = 0
    """The 1-based index of the last live values; all of them were sent before this."""
    headers: tuple[FileHeader, ...] = ()
    frames: tuple[Frame, ...] = ()


class CaughtUp(Message, frozen=True, tag="caught_up"):
    """The root now has everything from before this connection: from here on it is live.

    To a viewer, at the end of each turn: it now has the observer's state of one moment.
    """


class Looked(Message, frozen=True, tag="looked"):
    """The look of that number was taken, and its results were sent."""

    number: int


class Unable(Message, frozen=True, tag="unable"):
    """It could not become the root of a rack."""

    why: str


class Bye(Message, frozen=True, tag="bye"):
    """Everything was sent; as the answer: everything was received.

    `after`: the number of the newest `Resume` that the sender has followed. A root that has sent a newer one
    does not answer: it lacks something.
    """

    after: int = 0


class Resume(Message, frozen=True, tag="resume"):
    """What the root has on disk: the leaf continues after that. Keys are as `cursor_key` makes them."""

    number: int
    cursors: dict[str, int] = {}


class Look(Message, frozen=True, tag="look"):
    """Take stacks now, and journal the newest of everything. `ask`: also ask agents for dumps.

    The root of a rack passes on what it sees of `suspects` in full, with `ask` what it sees of all.
    """

    number: int
    why: str
    ask: bool = False
    suspects: tuple[str, ...] = ()


class Serve(Message, frozen=True, tag="serve"):
    """Become the root of a rack, listening at this address, and connect here anew."""

    address: str


class Move(Message, frozen=True, tag="move"):
    """Send to the root of your rack, at this place. If it cannot be reached, come back."""

    place: str


class End(Message, frozen=True, tag="end"):
    """DISTWATCH_ON_HANG=abort: this process of yours is the culprit. The leaf looks again whether it asked for that."""

    process: str
    incident: int
    code: str
    summary: str


class Seen(Message, frozen=True, tag="seen"):
    """The other side is alive and reads.

    The more processes a run has, the more rarely and briefly their live values are sent; journaled
    events are always sent at once and whole.
    """

    live_every_s: float = 0.0
    """How often to send the newest live values."""
    send_every_s: float = 0.0
    """How often to send at most: each message costs the root as much as some ten records."""
    operations: int = 1 << 16
    """How many of a pulse's newest operations to send."""
    busy_s: float = 0.0
    """How long the root may be too busy to answer."""
    live: int = 0
    """The newest `Batch.live` that was received: until then, newer values would only queue up."""


class Refused(Message, frozen=True, tag="refused"):
    why: str


FromLeaf = Batch | CaughtUp | Looked | Unable | Bye
FromRoot = Resume | Look | Serve | Move | End | Seen | Bye | Refused


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """Who connects, and as what. `node` distinguishes two machines of the same name."""

    kind: Literal["leaf", "viewer"]
    run_id: str
    host: str
    node: str
    version: int = VERSION
    rack: str = ""
    """The name of its rack, where it was given one."""
    place: str = ""
    """Where it takes the hosts of its rack, whose records it passes on."""
    unreachable: str = ""
    """The root of a rack to which it was sent, and which it could not reach."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The root's answer: '' or why it does not take this side."""

    refused: str = ""


def cursor_key(header: FileHeader) -> str:
    """A name for a stream that no other stream ever has."""
    return f"{header.stream}/{header.salt:x}"


def encode(message: Message) -> bytes:
    return msgspec.msgpack.encode(message)


decode_from_leaf = msgspec.msgpack.Decoder(FromLeaf).decode
"""Decodes a message; raises msgspec.DecodeError on anything else."""
decode_from_root = msgspec.msgpack.Decoder(FromRoot).decode
"""As `decode_from_leaf`."""
