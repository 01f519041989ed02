"""Follows the processes of one run on this node, and copies what they write to disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from distwatch.observer.journals.reading import parse_pulse
from distwatch.observer.journals.rings import Ring, open_private
from distwatch.observer.journals.segments import Segment
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, Record
from distwatch.state.pulse import FILE_SIZE

TRY_AGAIN_S = 5.0


class Followed:
    """One process's ring and pulse. Idle, a tick costs a few small reads.

    Attributes:
        trouble: why something could not be kept on disk; whoever says it clears it.
        over: its writer is gone and everything was read.
    """

    def __init__(
        self, folder: RunFolder, stem: str, volatile: str, *, writable: bool = True
    ) -> None:
        """Opens the ring; raises OSError or ValueError where it is not (yet) one."""
        self.stem = stem
        self.ring = Ring(f"{volatile}/{stem}.ring")
        self.header: FileHeader = self.ring.header
        self.segment: Segment | None = None
        self.trouble = ""
        self.over = False
        self._writable = writable
        self._retry_at = 0.0
        self._folder = folder
        self._volatile = volatile
        self._pulse_file = -1
        self._pulse = b""
        self._kept = b""

    def read(self, *, last_time: bool = False) -> list[Record]:
        """New records, already on their way to disk."""
        if self.over:
            return []
        records = self.ring.read(last_time=last_time)
        if self._writable and (records or self.segment is None):
            self._keep(records)
        return records

    def read_pulse(self) -> ev.PulseRead | None:
        """The live pulse where it changed since the last reading."""
        if self._pulse_file < 0:
            try:
                self._pulse_file = open_private(f"{self._volatile}/{self.stem}.pulse")
            except OSError:
                return None
        content = os.pread(self._pulse_file, FILE_SIZE, 0)
        if content == self._pulse:
            return None
        self._pulse = content
        return parse_pulse(content, self.header.stream)

    def keep_pulse(self) -> None:
        """Copies the pulse to disk where it changed; the live one goes with the machine."""
        if not self._writable or not self._pulse or self._volatile == self._folder.path:
            return
        if self._pulse == self._kept:
            return
        path = self._folder.kept_pulse(self.stem)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
            try:
                os.pwrite(descriptor, self._pulse, 0)
            finally:
                os.close(descriptor)
            self._kept = self._pulse
        except OSError as error:
            self.trouble = f"its pulse is not on disk: {error.strerror}"

    def flush(self) -> None:
        """Has the kernel write the copy through."""
        if self.segment is not None:
            with contextlib.suppress(OSError):
                self.segment.flush()

    def close(self) -> None:
        self.ring.close()
        if self.segment is not None:
            self.segment.close()
        if self._pulse_file >= 0:
            os.close(self._pulse_file)

    def _keep(self, records: list[Record]) -> None:
        # To open a segment costs a reading of it and of the ring: not at every tick of a full disk.
        if self.segment is None and time.monotonic() < self._retry_at:
            return
        try:
            if self.segment is None:
                self.segment = Segment(self._folder.journal(self.stem), self.header)
                records = self.ring.since(self.segment.last_seq)
            self.segment.append(records)
        except OSError as error:
            # The ring still has them: the next try takes up from what is on disk.
            self.trouble = f"its journal is not on disk: {error.strerror}"
            self._retry_at = time.monotonic() + TRY_AGAIN_S
            if self.segment is not None:
                self.segment.close()
            self.segment = None


class Follower:
    """All processes of a run folder."""

    def __init__(self, folder: RunFolder, *, writable: bool = True) -> None:
        self.folder = folder
        self._writable = writable
        self._volatile = folder.volatile
        self.followed: dict[str, Followed] = {}
        self._seen_starts: set[str] = set()

    def discover(self) -> list[Followed]:
        """Rings that are new since the last call."""
        found: list[Followed] = []
        stems = self.folder.stems(".ring", self._volatile) if self._volatile else []
        for stem in stems:
            if stem in self.followed:
                continue
            # A ring whose header is not written yet is taken at the next tick.
            with contextlib.suppress(OSError, ValueError):
                self.followed[stem] = Followed(
                    self.folder, stem, self._volatile, writable=self._writable
                )
                found.append(self.followed[stem])
        return found

    def by_key(self) -> dict[str, Followed]:
        """The same, by process key."""
        return {followed.header.stream: followed for followed in self.followed.values()}

    def new_starts(self) -> Iterator[dict[str, str]]:
        """Start records that are new since the last call."""
        for stem in self.folder.stems(".start"):
            if stem in self._seen_starts:
                continue
            for start in self.folder.starts_of(stem):
                # A record is made empty and filled then: what is not whole comes at the next tick.
                if "role" in start:
                    self._seen_starts.add(stem)
                    yield start

    def close(self) -> None:
        for followed in self.followed.values():
            followed.close()
