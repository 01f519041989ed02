"""Reads a process's ring while the process writes it, or after its death.

It uses `pread`, never a memory map: a truncated ring would kill its reader by SIGBUS.
"""

from __future__ import annotations

import fcntl
import os

from distwatch.foreign_files import open_ours
from distwatch.state.frames import (
    HEAD,
    HEADER_SIZE,
    MAGIC,
    MAX_PAYLOAD,
    FileHeader,
    Record,
    decode_header,
    frame_size,
    read_frame,
    scan,
)

_CHUNK = 2 * (MAX_PAYLOAD + HEAD.size)
_LARGEST = 256 * 1024 * 1024


class Ring:
    """A cursor in one ring.

    Attributes:
        header: whose ring it is.
        lost: records that were overwritten before they could be read.
    """

    def __init__(self, path: str, last_seq: int = 0) -> None:
        """Opens the ring; reading continues after `last_seq`.

        Raises:
            OSError: it cannot be opened.
            ValueError: it has no header, or not yet.
        """
        self.path = path
        self._descriptor = open_ours(path)
        header = decode_header(os.pread(self._descriptor, HEADER_SIZE, 0))
        if header is None:
            os.close(self._descriptor)
            raise ValueError(f"{path} has no journal header")
        self.header: FileHeader = header
        self.last_seq = last_seq
        self.lost = 0
        self._offset = HEADER_SIZE
        self._known = last_seq == 0
        self._end = HEADER_SIZE + min(header.capacity or _LARGEST, _LARGEST)

    def read(self, *, last_time: bool = False) -> list[Record]:
        """The records since the last call, in order.

        Args:
            last_time: the writer is gone: search the whole ring, which may have been lapped just before
                its writer died.
        """
        if last_time or not self._known:
            return self._follow() + self._rescan()
        found = self._follow()
        head = self._peek(HEADER_SIZE)
        # Every lap starts at the first frame: a newer frame there means that the ring was lapped.
        if head is not None and head > self.last_seq:
            found += self._rescan()
        return found

    def since(self, seq: int) -> list[Record]:
        """The records after `seq` that the ring still holds; does not move the cursor."""
        return [record for _, record in self._scan() if record.seq > seq]

    def is_written(self) -> bool | None:
        """As `has_writer`."""
        return has_writer(self._descriptor)

    def close(self) -> None:
        """Closes the descriptor, if it is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _peek(self, offset: int) -> int | None:
        head = os.pread(self._descriptor, HEAD.size, offset)
        if len(head) < HEAD.size:
            return None
        magic, _, seq, *_ = HEAD.unpack(head)
        return int(seq) if magic == MAGIC else None

    def _follow(self) -> list[Record]:
        found: list[Record] = []
        while self._known:
            for start in (self._offset, HEADER_SIZE):
                if self._peek(start) == self.last_seq + 1 and (part := self._read_from(start)):
                    found += part
                    break
            else:
                break
        return found

    def _read_from(self, offset: int) -> list[Record]:
        chunk = os.pread(self._descriptor, min(_CHUNK, self._end - offset), offset)
        found: list[Record] = []
        at = 0
        while (record := read_frame(chunk, at, self.header.salt)) is not None:
            if record.seq != self.last_seq + 1:
                break
            found.append(record)
            self.last_seq = record.seq
            at += frame_size(len(record.payload))
        self._offset = offset + at if found else self._offset
        return found

    def _scan(self) -> list[tuple[int, Record]]:
        content = os.pread(self._descriptor, self._end, 0)
        return sorted(scan(content, self.header.salt), key=lambda item: item[1].seq)

    def _rescan(self) -> list[Record]:
        first = self._scan()
        if not first:
            return []
        # While we copied, the writer may have finished a frame behind our position and one
        # before it: a second look tells such a frame from one that is really gone.
        newest = first[-1][1].seq
        both = {record.seq: (offset, record) for offset, record in first + self._scan()}
        fresh = [both[seq] for seq in sorted(both) if self.last_seq < seq <= newest]
        self._known = True
        if newest < self.last_seq:
            return []
        if not fresh:
            self._resume_at(*both[newest])
            return []
        self.lost += newest - self.last_seq - len(fresh)
        self._resume_at(*fresh[-1])
        return [record for _, record in fresh]

    def _resume_at(self, offset: int, record: Record) -> None:
        self.last_seq = record.seq
        self._offset = offset + frame_size(len(record.payload))


def has_writer(descriptor: int) -> bool | None:
    """Whether a process has the file open or mapped for writing; None where the system does not say.

    A pid says less: it may be one of another container that shares our tmpfs, and a process whose
    main thread is over is a zombie while its other threads go on.
    """
    try:
        # The kernel grants a read lease only if nobody has the file open for writing.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
