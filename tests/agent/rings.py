"""Reads a ring as a test needs it: all records, in order."""

from __future__ import annotations

from pathlib import Path

from distwatch.state.events import Event, decode_event
from distwatch.state.frames import FileHeader, Record, decode_header, scan


def read_ring(path: str | Path) -> tuple[FileHeader, list[Record]]:
    content = Path(path).read_bytes()
    header = decode_header(content)
    assert header is not None
    records = [record for _, record in scan(content, header.salt)]
    return header, sorted(records, key=lambda record: record.seq)


def read_events(path: str | Path) -> list[Event | None]:
    return [decode_event(record.payload) for record in read_ring(path)[1]]
