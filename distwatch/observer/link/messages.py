"""What observers of one run say to each other. msgpack of these types, and nothing else."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.frames import MAX_PAYLOAD, FileHeader

VERSION = 1
FRAME_LIMIT = 1024 * 1024
BATCH_SIZE = FRAME_LIMIT // 4
"""A batch is sent once it is that long; one record more still fits the limit."""
assert BATCH_SIZE + 2 * MAX_PAYLOAD < FRAME_LIMIT


class Message(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="say", forbid_unknown_fields=True
):
    """Base of what is said once both sides have proved themselves."""


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A journal's record as it stands on the leaf's disk, or, with `seq` 0, a live value."""

    stream: int
    """Index into the batch's headers."""
    seq: int
    time_ns: int
    payload: bytes


class Batch(Message, frozen=True, tag="batch"):
    """`after`: the number of the `Resume` that this goes on from."""

    after: int
    live: int = 0
    """The 1-based index of the last live values sent; they are all on their way before this."""
    headers: tuple[FileHeader, ...] = ()
    frames: tuple[Frame, ...] = ()


class CaughtUp(Message, frozen=True, tag="caught_up"):
    """All that the root lacked when this connection began was sent: from here on it is live."""


class Looked(Message, frozen=True, tag="looked"):
    """The look of that number has been taken, and what it brought was sent."""

    number: int


class Bye(Message, frozen=True, tag="bye"):
    """Everything was sent; in answer: everything was taken."""


class Resume(Message, frozen=True, tag="resume"):
    """What the root has on disk: the leaf goes on behind it. Keys are of `cursor_key`."""

    number: int
    cursors: dict[str, int] = {}


class Look(Message, frozen=True, tag="look"):
    """Take stacks now, and journal the newest of everything. `ask`: the recorders' dumps, too."""

    number: int
    why: str
    ask: bool = False


class Seen(Message, frozen=True, tag="seen"):
    """The other side is alive and reads.

    The more processes a run has, the more rarely and shortly their live values are told; what is
    journaled is always told at once and whole.
    """

    live_every_s: float = 0.0
    """How often the newest of what is not journaled is of use."""
    operations: int = 1 << 16
    """How many of a pulse's newest operations are."""
    busy_s: float = 0.0
    """For how long it may be too busy to say anything."""
    live: int = 0
    """The newest `Batch.live` that was taken: until then newer values would only queue up."""


class Refused(Message, frozen=True, tag="refused"):
    why: str


FromLeaf = Batch | CaughtUp | Looked | Bye
FromRoot = Resume | Look | Seen | Bye | Refused


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who connects, and for what. `node` tells two machines of one name apart."""

    kind: Literal["leaf", "viewer"]
    run_id: str
    host: str
    node: str


class Challenge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root's first word."""

    version: int
    nonce: bytes


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The leaf's word: who it is, and the proof that it knows the token."""

    nonce: bytes
    hello: bytes
    proof: bytes


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root's own proof, or why there is none."""

    proof: bytes = b""
    refused: str = ""


def cursor_key(header: FileHeader) -> str:
    """The name of a stream among all that ever were."""
    return f"{header.stream}/{header.salt:x}"


def encode(message: Message) -> bytes:
    return msgspec.msgpack.encode(message)


_from_leaf: msgspec.msgpack.Decoder[FromLeaf] = msgspec.msgpack.Decoder(FromLeaf)
_from_root: msgspec.msgpack.Decoder[FromRoot] = msgspec.msgpack.Decoder(FromRoot)


def decode_from_leaf(body: bytes) -> FromLeaf:
    """Raises msgspec.DecodeError on anything else."""
    return _from_leaf.decode(body)


def decode_from_root(body: bytes) -> FromRoot:
    """Raises msgspec.DecodeError on anything else."""
    return _from_root.decode(body)
