"""The records of this host that the root lacks: new ones from a queue, older ones from disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from distwatch.observer.journals.reading import ROUTINE, Entry, journal_paths, live_key
from distwatch.observer.journals.recording import (
    KEEP_EVERY_NS,
    UNCHANGED_EVERY_NS,
    material,
    shorten,
)
from distwatch.observer.journals.segments import read_journal
from distwatch.observer.link.digest import Digest
from distwatch.observer.link.messages import BATCH_SIZE, Batch, Frame, cursor_key
from distwatch.observer.link.mirror import objection_to
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader, Record

QUEUE_LIMIT = 8 * 1024 * 1024
"""The most bytes of records that wait for the root; beyond that they are read from disk again."""
_OVERHEAD = 64
_Item = tuple[FileHeader, int, int, bytes]
"""A stream, and a record's seq, time and payload."""


class Backlog:
    """Records in the order of their streams, each sent once; of live values only the newest.

    Attributes:
        behind: the disk has records that are not queued here.
        handed: by stream, the newest record that the observer has handed on: everything before it is
            whole in a file.
        after: the number of the root's `Resume` that is followed.
        digest: the observer is the root of a rack: what is sent of all its hosts, and not only of this one.
    """

    def __init__(self, folder: RunFolder, host: str) -> None:
        self._folder = folder
        self._host = host
        self.digest: Digest | None = None
        self.behind = True
        self.handed: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self.after = 0
        self._records: deque[tuple[FileHeader, Record]] = deque()
        self._size = 0
        self._live: dict[object, Entry] = {}
        self._sampled: dict[object, tuple[object, int]] = {}

    def resume(self, number: int, cursors: dict[str, int]) -> None:
        """Starts again from what the root has, by its cursors."""
        self.after = number
        self._sent = dict(cursors)
        self._fall_behind()

    def add_record(self, header: FileHeader, record: Record) -> None:
        """Queues a record that has just been journaled."""
        self.handed[cursor_key(header)] = record.seq
        if self.behind:
            return
        if (passed := self._passed(header, record)) is None:
            return
        self._records.append((header, passed))
        self._size += len(passed.payload) + _OVERHEAD
        if self._size > QUEUE_LIMIT:
            self._fall_behind()

    def add_live(self, entry: Entry) -> None:
        """Queues an event that is not journaled: only the newest of a kind is kept."""
        if entry.seq and (self.digest is None or type(entry.event) not in ROUTINE):
            return
        # The root above hears of the rack's hosts by its own clock.
        if isinstance(entry.event, ev.HostHeard):
            return
        self._live[live_key(entry)] = entry

    def take_live_batch(
        self, *, live: bool = True, operations: int = 1 << 16, sparing: bool = False
    ) -> list[Batch]:
        """Everything that is queued, in batches that fit a frame.

        Args:
            live: also the newest live values.
            operations: how many of a pulse's newest operations to send.
            sparing: leave out samples that are not news.
        """
        waiting = self._take_waiting(live, operations, sparing)
        return list(self._batches(waiting))

    def _take_waiting(self, live: bool, operations: int, sparing: bool) -> Iterator[_Item]:
        while self._records:
            yield from self._unsent(*self._records.popleft())
        self._size = 0
        newest: dict[object, Entry] = {}
        if live:
            newest, self._live = self._live, newest
        for key, entry in newest.items():
            event = entry.event
            if sparing and not self._is_news(key, entry):
                continue
            if isinstance(event, ev.PulseRead):
                event = shorten(event, operations)
            yield entry.header, 0, entry.time_ns, encode_event(event)

    def _is_news(self, key: object, entry: Entry) -> bool:
        event = entry.event
        if not isinstance(event, ev.ProcessSampled):
            return True
        content, sent_ns = self._sampled.get(key, (None, 0))
        every_ns = UNCHANGED_EVERY_NS if self.digest is not None else KEEP_EVERY_NS
        if content == material(event) and entry.time_ns - sent_ns < every_ns:
            return False
        self._sampled[key] = (material(event), entry.time_ns)
        return True

    def begin_history(self) -> dict[str, int]:
        """From now on records are queued again; those handed on until now are in files."""
        self.behind = False
        return dict(self.handed)

    def take_history(self, streams: list[tuple[FileHeader, list[Record]]]) -> Iterator[Batch]:
        """Batches of the records read from files, without those sent before."""
        items = (
            item
            for header, records in streams
            for record in records
            for item in self._unsent(header, record)
        )
        return self._batches(items)

    def read_history(self, handed: dict[str, int]) -> list[tuple[FileHeader, list[Record]]]:
        """The records in this host's files, up to those handed on. Blocks: call it in a thread."""
        sent = dict(self._sent)
        found: dict[str, tuple[FileHeader, dict[int, Record]]] = {}
        for path in journal_paths(self._folder):
            try:
                contents = read_journal(path)
            except OSError:
                continue
            if contents is None or not self._sends(contents.header.host):
                continue
            key = cursor_key(contents.header)
            # A ring may be written while it is read: skip a stream of which nothing was handed on.
            if contents.header.capacity and key not in handed:
                continue
            upto = handed.get(key)
            _, stream = found.setdefault(key, (contents.header, {}))
            for record in contents.records:
                if record.seq <= sent.get(key, 0) or (upto is not None and record.seq > upto):
                    continue
                # All records of a rack's journals would not fit into memory.
                if (passed := self._passed(contents.header, record)) is not None:
                    stream.setdefault(record.seq, passed)
        return [
            (header, [stream[seq] for seq in sorted(stream)]) for header, stream in found.values()
        ]

    def _sends(self, host: str) -> bool:
        return self.digest is not None or host == self._host

    def _passed(self, header: FileHeader, record: Record) -> Record | None:
        return self.digest.passed(header.stream, record) if self.digest else record

    def _unsent(self, header: FileHeader, record: Record) -> Iterator[_Item]:
        """The record, unless it was sent before."""
        key = cursor_key(header)
        if record.seq > self._sent.get(key, 0):
            self._sent[key] = record.seq
            yield header, record.seq, record.time_ns, record.payload

    def _fall_behind(self) -> None:
        self._records.clear()
        self._size = 0
        self.behind = True

    def _batches(self, items: Iterable[_Item]) -> Iterator[Batch]:
        """Packs items into batches that fit a frame."""
        indexes: dict[str, int] = {}
        headers: list[FileHeader] = []
        frames: list[Frame] = []
        size = 0
        for header, seq, time_ns, payload in items:
            key = cursor_key(header)
            if key not in indexes:
                # Anyone who writes a ring here can give it any name: the root would refuse the whole batch.
                host = header.host if self.digest is not None else self._host
                if objection_to(header, host):
                    continue
                indexes[key] = len(headers)
                headers.append(msgspec.structs.replace(header, capacity=0))
                size += len(header.stream) + len(header.host) + len(header.boot_id) + _OVERHEAD
            frames.append(Frame(indexes[key], seq, time_ns, payload))
            size += len(payload) + _OVERHEAD
            if size >= BATCH_SIZE:
                yield Batch(after=self.after, headers=tuple(headers), frames=tuple(frames))
                indexes, headers, frames, size = {}, [], [], 0
        if frames:
            yield Batch(after=self.after, headers=tuple(headers), frames=tuple(frames))
