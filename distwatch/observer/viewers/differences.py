"""What has changed in a run since some moment, as the fewest events that give the same state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from distwatch.observer.journals.reading import ROUTINE, Entry, live_key
from distwatch.observer.link.messages import BATCH_SIZE, Batch, Frame
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import FileHeader

DIFFERENCES_MOST = 64 * 1024 * 1024
"""Bytes of records that wait for a viewer: a look at 10,000 ranks gives 48 MB, which costs less than a new picture."""
_OVERHEAD = 64

Item = tuple[FileHeader, int, int, bytes]
"""A stream, and an event's place in it, its time and its bytes."""


class Differences:
    """Each record in the order of its stream, and of values that replace each other the newest.

    Attributes:
        size: bytes of the records.
        too_many: these are not all of them.
    """

    def __init__(self) -> None:
        self._entries: dict[object, Entry] = {}
        self.size = 0
        self.too_many = False

    def take(self, entry: Entry) -> None:
        """Adds an event that was folded."""
        if type(entry.event) in ROUTINE or not entry.seq:
            if self.too_many:
                return
            # Last in order: an older record of its stream must not come after it.
            key = (bool(entry.seq), live_key(entry))
            self._entries.pop(key, None)
            self._entries[key] = entry
            return
        if not entry.payload:
            entry = msgspec.structs.replace(entry, payload=encode_event(entry.event))
        self.size += len(entry.payload) + _OVERHEAD
        if self.size > DIFFERENCES_MOST:
            self.too_many = True
            self._entries.clear()
        else:
            self._entries[entry.header.stream, entry.seq] = entry

    def copy(self) -> Differences:
        same = Differences()
        same._entries, same.size, same.too_many = self._entries.copy(), self.size, self.too_many
        return same

    def items(self) -> Iterator[Item]:
        for entry in self._entries.values():
            payload = entry.payload or encode_event(entry.event)
            yield entry.header, entry.seq, entry.time_ns, payload


def batches_of(items: Iterable[Item]) -> Iterator[Batch]:
    """The same in batches that fit a frame."""
    places: dict[str, int] = {}
    headers: list[FileHeader] = []
    frames: list[Frame] = []
    size = 0
    for header, seq, time_ns, payload in items:
        place = places.setdefault(header.stream, len(headers))
        if place == len(headers):
            headers.append(header)
            size += len(header.stream) + len(header.host) + len(header.boot_id) + _OVERHEAD
        frames.append(Frame(place, seq, time_ns, payload))
        size += len(payload) + _OVERHEAD
        if size >= BATCH_SIZE:
            yield Batch(after=0, headers=tuple(headers), frames=tuple(frames))
            places, headers, frames, size = {}, [], [], 0
    if frames:
        yield Batch(after=0, headers=tuple(headers), frames=tuple(frames))


def entries_of(batch: Batch) -> Iterator[Entry]:
    """The events of a batch; raises IndexError for one of a stream that was not named."""
    for frame in batch.frames:
        if (event := decode_event(frame.payload)) is not None:
            yield Entry(batch.headers[frame.stream], frame.seq, frame.time_ns, event)
