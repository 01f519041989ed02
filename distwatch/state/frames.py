"""The journal's bytes: a file header, then framed and checksummed events.

The in-job ring (tmpfs) and the observer's append-only segment (disk) hold the same frames.
A frame is a head of 32 bytes and a payload, padded to 8 bytes:

    magic u32 · length u32 · seq u64 · time u64 (CLOCK_MONOTONIC ns) · crc32 u32 · zero u32

The crc covers head and payload and starts from the file's salt, so that a payload cannot
forge a frame and a stale frame of another file is never taken for one of this file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

HEADER_SIZE = 4096
HEAD = struct.Struct("<IIQQII")
MAGIC = 0x31465744  # "DWF1"
MAGIC_BYTES = struct.pack("<I", MAGIC)
MAX_PAYLOAD = 256 * 1024
_FILE_MAGIC = b"DWJ1"
_FILE_HEAD = struct.Struct("<4sII")
_CHECKED = struct.Struct("<IQQ")
_CHECKED_AT = len(MAGIC_BYTES)


class FileHeader(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The journal's owner. `wall_offset_ns` + frame time = wall clock, for display only."""

    stream: str
    """The writer's process key, `host-pid.start_ticks`; observers append their kind."""
    host: str
    pid: int
    start_ticks: int
    boot_id: str
    wall_offset_ns: int
    salt: int
    capacity: int = 0
    """Bytes of the ring after the header; 0 for an append-only segment."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One frame as read: its place in the stream, and its payload, not yet decoded."""

    seq: int
    time_ns: int
    payload: bytes


def process_key(host: str, pid: int, start_ticks: int) -> str:
    """A process's name, unique even when its pid is reused."""
    return f"{host}-{pid}.{start_ticks}"


def encode_header(header: FileHeader) -> bytes:
    """The header as a block of HEADER_SIZE bytes."""
    body = msgspec.msgpack.encode(header)
    head = _FILE_HEAD.pack(_FILE_MAGIC, len(body), zlib.crc32(body))
    if len(head) + len(body) > HEADER_SIZE:
        raise ValueError(f"journal header of {len(body)} bytes does not fit {HEADER_SIZE}")
    return (head + body).ljust(HEADER_SIZE, b"\0")


def decode_header(block: bytes | memoryview) -> FileHeader | None:
    """The header of a journal, or None where the bytes are not one. Never raises."""
    if len(block) < _FILE_HEAD.size:
        return None
    magic, length, crc = _FILE_HEAD.unpack_from(block)
    body = bytes(block[_FILE_HEAD.size : _FILE_HEAD.size + length])
    if magic != _FILE_MAGIC or len(body) != length or zlib.crc32(body) != crc:
        return None
    try:
        return msgspec.msgpack.decode(body, type=FileHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def frame_size(payload_length: int) -> int:
    """Bytes of a payload's frame in the file, with head and padding."""
    return HEAD.size + (payload_length + 7) // 8 * 8


def checksum(salt: int, length: int, seq: int, time_ns: int, payload: bytes) -> int:
    """The frame's crc32."""
    return zlib.crc32(payload, zlib.crc32(_CHECKED.pack(length, seq, time_ns), salt))


def encode_frame(salt: int, record: Record) -> bytes:
    """A whole frame, padded."""
    length = len(record.payload)
    crc = checksum(salt, length, record.seq, record.time_ns, record.payload)
    head = HEAD.pack(MAGIC, length, record.seq, record.time_ns, crc, 0)
    return (head + record.payload).ljust(frame_size(length), b"\0")


def read_frame(buffer: bytes | memoryview, offset: int, salt: int) -> Record | None:
    """The frame at `offset`, or None where there is no complete frame. Never raises."""
    if offset < 0 or offset + HEAD.size > len(buffer):
        return None
    magic, length, seq, time_ns, crc, _ = HEAD.unpack_from(buffer, offset)
    if magic != MAGIC or length > MAX_PAYLOAD or (seq | time_ns) >> 63:
        return None
    payload = bytes(buffer[offset + HEAD.size : offset + HEAD.size + length])
    # Length, number and time are adjacent, as `checksum` packs them.
    checked = buffer[offset + _CHECKED_AT : offset + _CHECKED_AT + _CHECKED.size]
    if len(payload) != length or zlib.crc32(payload, zlib.crc32(checked, salt)) != crc:
        return None
    return Record(seq=seq, time_ns=time_ns, payload=payload)


def scan(buffer: bytes, salt: int, start: int = HEADER_SIZE) -> Iterator[tuple[int, Record]]:
    """All complete frames from `start` on with their offsets; damaged parts are skipped.

    Frames come in file order; a ring's reader sorts them by `seq`. Never raises.
    """
    offset = start
    while (offset := buffer.find(MAGIC_BYTES, offset)) >= 0:
        if offset % 8 == 0 and (record := read_frame(buffer, offset, salt)) is not None:
            yield offset, record
            offset += frame_size(len(record.payload))
        else:
            offset += 1
