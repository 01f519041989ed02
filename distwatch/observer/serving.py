"""Serves viewers of this user on a Unix socket: all events so far, then each new one.

Frames are a u32 length and msgpack. A viewer that does not keep up, or sends anything but a request,
is disconnected; the observer continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from distwatch.observer.background import close_writer, end_tasks
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import Entry, Reading, live_key
from distwatch.observer.link.orders import Order
from distwatch.observer_socket import LENGTH, framed, peer_uid
from distwatch.socket_path import within_limit
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import FileHeader, Record

if TYPE_CHECKING:
    # At run time, viewers must not load the link.
    from distwatch.observer.link.start import Link

FRAME_LIMIT = 1024 * 1024
QUEUE_LIMIT = 16 * 1024 * 1024
"""The most bytes that wait for a viewer; beyond that, it gets them from the journals again."""
MISSED_AT_MOST = 32
"""How many times QUEUE_LIMIT a viewer may miss without reading anything."""
AT_ONCE = 4 * 1024 * 1024
"""Bytes of history that are read, and may be in transit, at one time."""
LIVE_EVERY_S = 0.25
FIRST_WITHIN_S = 10.0
_OVERHEAD = 300


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A viewer's request: `events` once, `dump` at any time.

    A rank asks for the `verdict`; `distwatch up` gives the observer a `part` among several.
    """

    want: str
    reason: str = ""
    order: Order | None = None


class Wire(msgspec.Struct, array_like=True, gc=False):
    """One event on its way to a viewer.

    Without a header: an answer to a request, or, if that is empty, the end of the history.
    """

    header: FileHeader | None
    seq: int
    time_ns: int
    payload: bytes
    answer: str = ""


unpack = msgspec.msgpack.Decoder(list[Wire]).decode
"""The events of a frame; raises msgspec.DecodeError on anything else."""


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The body of one frame.

    Raises:
        ValueError: it is longer than FRAME_LIMIT.
        asyncio.IncompleteReadError: the other side is gone.
    """
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > FRAME_LIMIT:
        raise ValueError(f"a frame of {length} bytes is over the limit of {FRAME_LIMIT}")
    return await reader.readexactly(length)


def dump_text(path: str) -> str:
    """The answer to a request for a dump. `path`: the incident's folder; '' where there is none."""
    if path:
        return f"incident written to {path}"
    return "could not write an incident: see the run's NotObserved events"


def to_wire(entry: Entry) -> Wire:
    payload = entry.payload or encode_event(entry.event)
    return Wire(entry.header, entry.seq, entry.time_ns, payload)


def from_wire(wire: Wire) -> Entry | None:
    event = decode_event(wire.payload)
    if event is None or wire.header is None:
        return None
    return Entry(wire.header, wire.seq, wire.time_ns, event)


class ViewerServer:
    """Listens on `<run>/observer.sock` while the observer runs."""

    def __init__(self, observer: Observer, link: Link | None = None) -> None:
        """`link`: shows viewers more than this host, where it can."""
        self._observer = observer
        self._link = link
        self._path = observer.folder.socket
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Starts listening; replaces the socket of a dead observer.

        Raises:
            OSError: the path cannot be bound.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        mask = os.umask(0o177)
        try:
            with within_limit(self._path) as path:
                self._server = await asyncio.start_unix_server(self._serve, path)
        finally:
            os.umask(mask)

    async def close(self) -> None:
        """Disconnects the viewers and removes the socket."""
        if self._server is None:
            return
        self._server.close()
        await end_tasks(*self._tasks)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if peer_uid(writer.get_extra_info("socket")) in (os.getuid(), 0):
                await _Viewer(self._observer, reader, writer).serve(self._link)
        except (OSError, ValueError, msgspec.DecodeError, EOFError, asyncio.TimeoutError):
            pass
        finally:
            await close_writer(writer)


def _chunk_of(streams: Iterator[tuple[FileHeader, list[Record]]]) -> list[Wire]:
    """The next whole streams, enough for some frames; empty: there are no more.

    Ten thousand ranks have ten thousand short streams: one at a time would mean as many waits.
    """
    wires: list[Wire] = []
    size = 0
    for header, records in streams:
        wires += [Wire(header, r.seq, r.time_ns, r.payload) for r in records]
        size += sum(len(r.payload) + _OVERHEAD for r in records)
        if size > AT_ONCE:
            break
    return wires


class _Viewer:
    """One connection."""

    def __init__(
        self, observer: Observer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._observer = observer
        self._reader = reader
        self._writer = writer
        self._queue: list[Wire] = []
        self._queued = 0
        self._live: dict[object, Entry] = {}
        self._behind = False
        self._missed = 0
        """Bytes that the viewer missed since it last read anything."""
        self._sent: dict[str, int] = {}
        self._more = asyncio.Event()

    async def serve(self, link: Link | None) -> None:
        sender: asyncio.Task[None] | None = None
        # A client that only connects is not a viewer, and must not keep the observer from ending.
        first = await asyncio.wait_for(read_frame(self._reader), FIRST_WITHIN_S)
        request = msgspec.msgpack.decode(first, type=Request)
        if request.want == "verdict":
            return await self._answer(await self._observer.verdict())
        if request.want == "part" and request.order is not None and link is not None:
            return await self._answer(await link.obey(request.order))
        self._observer.viewers += 1
        try:
            again = LENGTH.pack(len(first)) + first
            if link and await link.join_viewer(again, self._reader, self._writer):
                return None
            while True:
                if request.want == "events" and sender is None:
                    self._observer.sinks.append(self._take)
                    sender = asyncio.create_task(self._send())
                elif request.want == "dump":
                    path = await self._observer.dump(request.reason or "a viewer asked")
                    self._put(Wire(None, 0, 0, b"", dump_text(path)))
                    if sender is None:
                        sender = asyncio.create_task(self._send_queue())
                else:
                    return None
                request = msgspec.msgpack.decode(await read_frame(self._reader), type=Request)
        finally:
            self._observer.viewers -= 1
            if self._take in self._observer.sinks:
                self._observer.sinks.remove(self._take)
            if sender is not None:
                await end_tasks(sender)

    async def _answer(self, answer: msgspec.Struct) -> None:
        self._writer.write(framed(answer))
        await self._writer.drain()

    def _take(self, entry: Entry) -> None:
        if entry.seq:
            self._put(to_wire(entry))
        else:
            # Only the newest of a live value matters, however slow the viewer is.
            self._live[live_key(entry)] = entry
            self._more.set()

    def _put(self, wire: Wire) -> None:
        size = len(wire.payload) + _OVERHEAD
        if self._behind:
            self._missed += size
            if self._missed > MISSED_AT_MOST * QUEUE_LIMIT:
                # The viewer can connect again, and then gets everything from the journals.
                self._writer.transport.abort()
        elif self._queued + size > QUEUE_LIMIT and wire.header is not None:
            # The journals have all of it: it is read from there once the viewer reads again.
            self._behind, self._missed = True, size
            self._queue, self._queued = [w for w in self._queue if w.header is None], 0
        else:
            self._queued += size
            self._queue.append(wire)
        self._more.set()

    async def _send(self) -> None:
        self._writer.transport.set_write_buffer_limits(high=AT_ONCE)
        await self._send_history()
        await self._write([Wire(None, 0, 0, b"")])
        await self._send_queue()

    async def _send_history(self) -> None:
        """Sends what is in the journals and was not sent before."""
        self._behind = False
        reading = Reading(self._observer.folder)
        newest = dict(self._observer.state.streams)
        streams = reading.streams(
            lambda header: newest.get(header.stream, 1 << 63) > self._sent.get(header.stream, 0)
        )
        while chunk := await asyncio.to_thread(_chunk_of, streams):
            await self._write_all(chunk)
        rest = await asyncio.to_thread(reading.rest)
        await self._write_all(to_wire(entry) for entry in rest)

    async def _send_queue(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            if self._behind:
                await self._send_history()
            waiting, self._queue, self._queued = self._queue, [], 0
            await self._write_all(waiting)
            live, self._live = self._live, {}
            await self._write_all(map(to_wire, live.values()))
            if live:
                await asyncio.sleep(LIVE_EVERY_S)

    async def _write_all(self, wires: Iterable[Wire]) -> None:
        batch: list[Wire] = []
        size = 0
        for wire in wires:
            if wire.header is not None and wire.seq:
                if wire.seq <= self._sent.get(wire.header.stream, 0):
                    continue
                self._sent[wire.header.stream] = wire.seq
            if batch and size + len(wire.payload) > FRAME_LIMIT // 4:
                await self._write(batch)
                batch, size = [], 0
            batch.append(wire)
            size += len(wire.payload) + _OVERHEAD
        if batch:
            await self._write(batch)

    async def _write(self, batch: list[Wire]) -> None:
        self._writer.write(framed(batch))
        await self._writer.drain()
        self._missed = 0
