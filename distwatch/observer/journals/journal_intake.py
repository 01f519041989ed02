"""Copies the rings and pulses of this host's ranks to disk, and folds them into the state."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Protocol

from distwatch.foreign_files import open_ours
from distwatch.observer.journals.new_names import NewNames
from distwatch.observer.journals.reading import parse_pulse
from distwatch.observer.journals.recording import Recording, RecordSink
from distwatch.observer.journals.refusal import Refusal
from distwatch.observer.journals.rings import Ring
from distwatch.observer.journals.segments import Segment
from distwatch.runfolder import RunFolder, memory_place
from distwatch.state import events as ev
from distwatch.state.events import decode_event
from distwatch.state.frames import FileHeader, Record
from distwatch.state.model import RunState
from distwatch.state.pulse import FILE_SIZE

TRY_AGAIN_S = 5.0


class Followed:
    """One process's ring and pulse. Idle, a tick costs a few small reads.

    Attributes:
        trouble: why something could not be written to disk; cleared when it is reported.
        over: its writer is gone, and everything was read and is kept.
    """

    def __init__(
        self, folder: RunFolder, stem: str, volatile: str, *, writable: bool = True
    ) -> None:
        """Opens the ring; raises OSError or ValueError where it is not a ring, or not yet."""
        self.stem = stem
        self.ring = Ring(f"{volatile}/{stem}.ring")
        self.header: FileHeader = self.ring.header
        self.segment: Segment | None = None
        self.trouble = ""
        self.over = False
        self._writable = writable
        self._retry_at = 0.0
        self._refusal = Refusal("its records")
        self._folder = folder
        self._volatile = volatile
        self._pulse_file = -1
        self._pulse = b""
        self._kept = b""

    def read(self, *, last_time: bool = False) -> list[Record]:
        """Returns new records, after passing them to the disk."""
        if self.over:
            return []
        records = self.ring.read(last_time=last_time)
        if last_time:
            self._retry_at = 0.0
        if self._writable and (records or self.segment is None):
            self._keep(records)
        return records

    def read_pulse(self) -> ev.PulseRead | None:
        """The live pulse; None unless it changed since the last reading."""
        if self._pulse_file < 0:
            try:
                self._pulse_file = open_ours(f"{self._volatile}/{self.stem}.pulse")
            except OSError:
                return None
        content = os.pread(self._pulse_file, FILE_SIZE, 0)
        if content == self._pulse:
            return None
        self._pulse = content
        return parse_pulse(content, self.header.stream)

    def keep_pulse(self) -> None:
        """Copies a changed pulse to disk; the live one is lost with the machine."""
        if not self._writable or not self._pulse or self._volatile == self._folder.path:
            return
        if self._pulse == self._kept:
            return
        path = self._folder.kept_pulse(self.stem)
        try:
            descriptor = open_ours(path, os.O_WRONLY | os.O_CREAT)
            try:
                os.pwrite(descriptor, self._pulse, 0)
            finally:
                os.close(descriptor)
            self._kept = self._pulse
        except OSError as error:
            # Alternating with the journal's trouble, it would be news each time.
            if not self._refusal.stands:
                self.trouble = f"its pulse could not be written: {error.strerror}"

    def flush(self) -> None:
        """Flushes the copy to disk."""
        if self.segment is not None and not self.over:
            with contextlib.suppress(OSError):
                self.segment.flush()

    def release(self) -> bool:
        """Frees the memory of a process that is gone; False if not everything is on disk yet."""
        if not self._writable:
            return True
        in_memory = self._volatile != self._folder.path
        if self.segment is None or self.segment.last_seq < self.ring.last_seq:
            return False
        if in_memory and self._pulse != self._kept:
            return False
        try:
            self.segment.flush()
        except OSError:
            return False
        if not self.ring.is_written():
            # Where the run folder itself is on tmpfs, the pulse there is the one that is kept.
            for suffix in (".pulse", ".sock", ".ring") if in_memory else (".sock", ".ring"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._volatile}/{self.stem}{suffix}")
        # An open file keeps its memory even without a name.
        self.close()
        return True

    def close(self) -> None:
        self.ring.close()
        if self.segment is not None:
            self.segment.close()
        if self._pulse_file >= 0:
            os.close(self._pulse_file)
            self._pulse_file = -1

    def _keep(self, records: list[Record]) -> None:
        # Opening a segment reads it and the ring: with a full disk, do not do that at every tick.
        if self.segment is None and time.monotonic() < self._retry_at:
            return
        try:
            if self.segment is None:
                self.segment = Segment(self._folder.journal(self.stem), self.header)
                records = self.ring.since(self.segment.last_seq)
            gone = records[0].seq - self.segment.last_seq - 1 if records else 0
            self.segment.append(records)
            if self._refusal.stands:
                self.trouble = self._refusal.finish(gone)
        except OSError as error:
            # The ring still has them: the next try continues from what is on disk.
            self._refusal.note(error, 0)
            self.trouble = self._refusal.standing
            self._retry_at = time.monotonic() + TRY_AGAIN_S
            if self.segment is not None:
                self.segment.close()
            self.segment = None


def remove_if_empty(place: str) -> None:
    """Removes a folder in memory, and our folders above it, if they are empty."""
    with contextlib.suppress(OSError):
        while f"{place}/".startswith(f"{memory_place()}/"):
            os.rmdir(place)
            place = os.path.dirname(place)


class Fold(Protocol):
    """Folds an event into the state."""

    def __call__(
        self,
        header: FileHeader,
        seq: int,
        time_ns: int,
        event: ev.Event,
        payload: bytes = b"",
    ) -> None: ...


class ProcessTable(Protocol):
    """The watched processes of this host; it is told about new ones."""

    def add_start(self, start: dict[str, str]) -> None: ...
    def add_agent(self, header: FileHeader) -> None: ...
    def is_living(self, key: str) -> bool: ...


class Intake:
    """Follows every process of the run folder, and has each one tracked from then on."""

    def __init__(
        self,
        folder: RunFolder,
        recording: Recording,
        processes: ProcessTable,
        state: RunState,
        fold: Fold,
        hand_on: RecordSink,
        *,
        writable: bool,
    ) -> None:
        """`hand_on` gets each record as it is in its journal, then `fold` gets its event."""
        self._recording = recording
        self._processes = processes
        self._state = state
        self._fold = fold
        self._hand_on = hand_on
        self._writable = writable
        self._folder = folder
        self._volatile = folder.volatile
        self._followed: dict[str, Followed] = {}
        self._seen_starts: set[str] = set()
        self._names = NewNames(folder.path)

    def take(self) -> None:
        """Takes in everything new."""
        self._find_starts()
        self._find_rings()
        for followed in self._followed.values():
            if not followed.over:
                self._take_records(followed)
                self._take_pulse(followed)

    def take_last_words(self, keys: set[str] | None = None) -> None:
        """Takes in what ended processes wrote last, which is still in their rings and pulses.

        Args:
            keys: the processes; None: all of them.
        """
        self.take()
        for followed in self._followed.values():
            key = followed.header.stream
            if (keys is None or key in keys) and not followed.over:
                self._take_records(followed, last_time=True)
                self._take_pulse(followed)
                followed.keep_pulse()
                followed.flush()
                followed.over = not self._processes.is_living(key) and followed.release()

    def keep_pulses(self) -> None:
        """Copies changed pulses to disk."""
        if self._writable:
            for followed in self._followed.values():
                followed.keep_pulse()

    def flush(self) -> None:
        """Flushes the journals to disk."""
        for followed in self._followed.values():
            followed.flush()

    def sockets(self) -> dict[str, str]:
        """The control sockets of living agents, by process key."""
        return {
            followed.header.stream: f"{self._volatile}/{stem}.sock"
            for stem, followed in self._followed.items()
            if self._processes.is_living(followed.header.stream)
        }

    def close(self) -> None:
        for followed in self._followed.values():
            followed.close()
        if self._writable:
            remove_if_empty(self._volatile)

    def _find_starts(self) -> None:
        # The folder of a root has a file for each of ten thousand ranks.
        if not self._names.may_be_there():
            return
        for stem in self._folder.stems(".start"):
            if stem in self._seen_starts:
                continue
            start = self._folder.start(stem)
            # A record is created empty and filled later: an incomplete one is read at the next tick.
            if "role" in start:
                self._seen_starts.add(stem)
                self._processes.add_start(start)
            else:
                self._names.forget()

    def _find_rings(self) -> None:
        for stem in self._folder.stems(".ring", self._volatile) if self._volatile else ():
            if stem in self._followed:
                continue
            try:
                followed = Followed(self._folder, stem, self._volatile, writable=self._writable)
            except (OSError, ValueError):
                continue  # its header is not written yet: the next tick tries again
            self._followed[stem] = followed
            self._processes.add_agent(followed.header)

    def _take_records(self, followed: Followed, *, last_time: bool = False) -> None:
        header = followed.header
        for record in followed.read(last_time=last_time):
            self._hand_on(header, record)
            event = decode_event(record.payload)
            if event is not None:
                self._fold(header, record.seq, record.time_ns, event, record.payload)

    def _take_pulse(self, followed: Followed) -> None:
        read = followed.read_pulse()
        if read is not None:
            self._recording.record(read)
        if followed.trouble:
            why, followed.trouble = followed.trouble, ""
            key = followed.header.stream
            known = self._state.processes.get(key)
            if known is None or known.outside.not_observed.get("disk") != why:
                self._recording.miss("disk", why, key)
