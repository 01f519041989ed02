"""The pulse file as bytes: one seqlocked page, a ring of operations and a name table.

The agent writes it in place; readers map it and never disturb the writer:

    0      seqlock u64 (odd: being written) · length u32 · crc32 u32 · msgpack `Pulse`
    8192   the operations ring: SLOTS slots of SLOT_SIZE bytes
    …      the name table of the ring's strings: a u32 length, then `name\\n` …
    …      the splits ring: what the last calls of all_to_all gave to and took from each member

A slot is valid where its two numbers agree: one is written before the body and one after it.
"""

from __future__ import annotations

import struct
import zlib

import msgspec

from distwatch.state.events import Operation, Pulse
from distwatch.state.splits import SPLIT_SLOTS, SPLITS_SIZE, decode_splits

PAGE_SIZE = 8192
PAGE_HEAD = struct.Struct("<QII")
SLOTS = 128
# number · entered · left · seq · numel · site · op · group · dtype · tag · peer · number again
SLOT = struct.Struct("<QQQqqIHHHHiQ")
SLOT_SIZE = 64
LEFT_OFFSET = 16
NAMES_OFFSET = PAGE_SIZE + SLOTS * SLOT_SIZE
NAMES_SIZE = 16 * 1024
SPLITS_OFFSET = NAMES_OFFSET + NAMES_SIZE
FILE_SIZE = SPLITS_OFFSET + SPLIT_SLOTS * SPLITS_SIZE

COUNTED_TAG = 0xFFFE
"""Of collectives alone: the native record has counted their number, and not asked for it."""
OTHER_TAG = 0xFFFF
"""Stands for every tag that does not fit into a slot."""
_P2P = frozenset({"send", "recv", "recv_anysource"})

assert SLOT.size <= SLOT_SIZE


def encode_page(pulse: Pulse) -> bytes | None:
    """Length, crc and body, to be written after the seqlock; None where they do not fit."""
    body = msgspec.msgpack.encode(pulse)
    if len(body) > PAGE_SIZE - PAGE_HEAD.size:
        return None
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


def decode_page(page: bytes) -> Pulse | None:
    """The pulse of a page; None where the page is torn, empty or damaged. Never raises."""
    if len(page) < PAGE_HEAD.size:
        return None
    lock, length, crc = PAGE_HEAD.unpack_from(page)
    body = page[PAGE_HEAD.size : PAGE_HEAD.size + length]
    if lock % 2 or len(body) != length or zlib.crc32(body) != crc or not body:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Pulse)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_operations(content: bytes) -> tuple[Operation, ...]:
    """The ring's complete operations, the oldest first. Never raises."""
    if len(content) < SPLITS_OFFSET:
        return ()
    names = _decode_names(content)
    splits = decode_splits(content[SPLITS_OFFSET:])
    found: list[Operation] = []
    for slot in range(SLOTS):
        fields = SLOT.unpack_from(content, PAGE_SIZE + slot * SLOT_SIZE)
        number, entered, left, seq, numel, site, op, group, dtype, tag, peer, again = fields
        if not number or number != again or max(op, group, dtype) >= len(names):
            continue
        p2p = names[op] in _P2P
        found.append(
            Operation(
                number=number,
                op=names[op],
                pg_name=names[group],
                seq=-1 if p2p else seq,
                p2p_seq=seq if p2p else -1,
                tag=tag if p2p else 0,  # a collective's says how its number was found
                site=site,
                entered_ns=entered,
                left_ns=left,
                numel=numel,
                dtype=names[dtype],
                peer=peer,
                splits=splits.get(number),
            )
        )
    return tuple(sorted(found, key=lambda operation: operation.number))


def _decode_names(content: bytes) -> list[str]:
    (length,) = struct.unpack_from("<I", content, NAMES_OFFSET)
    table = content[NAMES_OFFSET + 4 : NAMES_OFFSET + 4 + min(length, NAMES_SIZE - 4)]
    return table.decode("utf-8", "replace").split("\n")[:-1]
