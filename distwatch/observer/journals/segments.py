"""Append-only segments on disk: the same frames as in the rings, resumed by sequence number."""

from __future__ import annotations

import os

import msgspec

from distwatch.foreign_files import open_ours, read_ours
from distwatch.observer.journals.checkpoint import ReadFile
from distwatch.state.frames import (
    HEADER_SIZE,
    FileHeader,
    Record,
    decode_header,
    encode_frame,
    encode_header,
    frame_size,
    scan,
)

LIMIT = 32 * 1024 * 1024
_OLD = ".old.journal"
_WRITE = os.O_RDWR | os.O_CREAT


class Contents(msgspec.Struct, kw_only=True):
    """The content of a journal file. `damaged` counts bytes outside whole frames."""

    header: FileHeader
    records: list[Record]
    end: int
    damaged: int

    @property
    def last_seq(self) -> int:
        """The newest record; 0 where there is none."""
        return max((record.seq for record in self.records), default=0)


def read_journal(path: str, known: ReadFile | None = None) -> Contents | None:
    """All whole records of a segment or ring in file order; None where it has no header.

    Args:
        known: what was read of it before: its records are left out.

    Raises:
        OSError: it cannot be read.
    """
    content = read_ours(path, LIMIT * 4)
    header = decode_header(content)
    if header is None:
        return None
    records: list[Record] = []
    end, damaged = HEADER_SIZE, 0
    if known is not None and known.header == header and known.upto <= len(content):
        end, damaged = known.upto, known.damaged
    for offset, record in scan(content, header.salt, end):
        damaged += offset - end
        records.append(record)
        end = offset + frame_size(len(record.payload))
    # After the last frame a ring may hold anything; zeros are not damage in either.
    if not header.capacity and content[end:].strip(b"\0"):
        damaged += len(content) - end
    return Contents(
        header=header, records=records, end=end, damaged=0 if header.capacity else damaged
    )


def read_header(path: str) -> FileHeader | None:
    """The header of a journal; None where it cannot be read or has none."""
    try:
        return decode_header(read_ours(path, HEADER_SIZE))
    except OSError:
        return None


class Segment:
    """Appends one stream's frames to disk. Writes nothing twice, and cuts a torn tail off.

    Attributes:
        last_seq: the newest record that is on disk.
    """

    def __init__(self, path: str, header: FileHeader, limit: int = LIMIT, reserve: int = 0) -> None:
        """Opens or creates the segment of that stream.

        A file of that name that belongs to another stream is kept; the new segment then has the start
        ticks in its name.

        Args:
            reserve: bytes that are kept allocated behind what is written, so that something can
                still be said of a disk that is full.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self.header = msgspec.structs.replace(header, capacity=0)
        self._limit = limit
        self._reserve = reserve
        self._allocated = 0
        old = _read_own(_old_path(path), self.header)
        self.last_seq = old.last_seq if old else 0
        there = _read_own(path, self.header)
        if there is None and os.path.exists(path):
            path = f"{path.removesuffix('.journal')}-{header.start_ticks}.journal"
            there = _read_own(path, self.header)
        self.path = path
        if there is not None:
            self._descriptor: int | None = open_ours(path, _WRITE)
            self._end = there.end
            self.last_seq = max(self.last_seq, there.last_seq)
            os.ftruncate(self._open(), self._end)
        else:
            self._descriptor, self._end = self._begin()

    def append(self, records: list[Record], *, from_reserve: bool = False) -> None:
        """Writes the records that are newer than the newest on disk.

        Args:
            from_reserve: they may take what is reserved.

        Raises:
            OSError: then nothing of this call is on disk.
        """
        fresh = [record for record in records if record.seq > self.last_seq]
        if not fresh:
            return
        self._rotate_if_full()
        body = b"".join(encode_frame(self.header.salt, record) for record in fresh)
        descriptor = self._open()
        if self._reserve and not from_reserve:
            self._allocate(descriptor, self._end + len(body) + self._reserve)
        try:
            self._write(descriptor, body)
        except OSError:
            os.ftruncate(descriptor, self._end)
            self._allocated = self._end
            raise
        self._end += len(body)
        self.last_seq = fresh[-1].seq

    def flush(self) -> None:
        """Flushes it to the disk."""
        os.fsync(self._open())

    @property
    def size(self) -> int:
        return self._end

    def close(self) -> None:
        """Closes the descriptor. A later `append` opens it again."""
        if self._descriptor is not None:
            if self._allocated > self._end:
                os.ftruncate(self._descriptor, self._end)
                self._allocated = self._end
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = open_ours(self.path, _WRITE & ~os.O_CREAT)
        return self._descriptor

    def _begin(self) -> tuple[int, int]:
        descriptor = open_ours(self.path, _WRITE | os.O_EXCL)
        try:
            if os.write(descriptor, encode_header(self.header)) != HEADER_SIZE:
                raise OSError(28, "No space left on device", self.path)
        except OSError:
            # A file without a whole header would never belong to any stream.
            os.close(descriptor)
            os.unlink(self.path)
            raise
        return descriptor, HEADER_SIZE

    def _write(self, descriptor: int, body: bytes) -> None:
        done = 0
        while done < len(body):
            done += os.pwrite(descriptor, body[done:], self._end + done)

    def _allocate(self, descriptor: int, upto: int) -> None:
        if upto > self._allocated:
            os.posix_fallocate(descriptor, self._end, upto + self._reserve - self._end)
            self._allocated = upto + self._reserve

    def _rotate_if_full(self) -> None:
        if self._end < self._limit:
            return
        os.replace(self.path, _old_path(self.path))
        self.close()
        self._descriptor, self._end = self._begin()


def _old_path(path: str) -> str:
    return path.removesuffix(".journal") + _OLD


def _read_own(path: str, header: FileHeader) -> Contents | None:
    try:
        contents = read_journal(path)
    except FileNotFoundError:
        return None
    if contents is None or (contents.header.stream, contents.header.salt) != (
        header.stream,
        header.salt,
    ):
        return None
    return contents
