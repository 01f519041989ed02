"""Serves viewers of this user on a Unix socket: all events so far, then each one as it comes.

Frames are a u32 length and msgpack. A viewer that does not keep up, or sends what is no
request, is disconnected; the observer goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Any, Protocol

import msgspec

from distwatch.observer.background import end_tasks
from distwatch.observer.daemon import Observer
from distwatch.observer.link.orders import Order, Part
from distwatch.observer.reading import Entry, read_entries
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import FileHeader

FRAME_LIMIT = 1024 * 1024
QUEUE_LIMIT = 16 * 1024 * 1024
"""Bytes that wait for a viewer at most."""
FIRST_WITHIN_S = 10.0
NOTHING_WRITTEN = "no incident could be written: see the run's NotObserved events"
_OVERHEAD = 300
_LENGTH = struct.Struct("<I")


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a viewer asks: `events` once, `dump` any time.

    A rank asks for the `verdict`; `distwatch up` has the observer take a `part` among several.
    """

    want: str
    reason: str = ""
    order: Order | None = None


class Wire(msgspec.Struct, array_like=True):
    """One event on its way to a viewer.

    Without a header: an answer to a request, or, where that is empty, the end of the history.
    """

    header: FileHeader | None
    seq: int
    time_ns: int
    payload: bytes
    answer: str = ""


_wires: msgspec.msgpack.Decoder[list[Wire]] = msgspec.msgpack.Decoder(list[Wire])


def pack(wires: list[Wire]) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(wires)
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The body of one frame.

    Raises:
        ValueError: it is longer than FRAME_LIMIT.
        asyncio.IncompleteReadError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > FRAME_LIMIT:
        raise ValueError(f"a frame of {length} bytes is over the limit of {FRAME_LIMIT}")
    return await reader.readexactly(length)


def unpack(body: bytes) -> list[Wire]:
    """The events of a frame; raises msgspec.DecodeError on anything else."""
    return _wires.decode(body)


def to_wire(entry: Entry) -> Wire:
    return Wire(entry.header, entry.seq, entry.time_ns, encode_event(entry.event))


def from_wire(wire: Wire) -> Entry | None:
    event = decode_event(wire.payload)
    if event is None or wire.header is None:
        return None
    return Entry(wire.header, wire.seq, wire.time_ns, event)


class Elsewhere(Protocol):
    """Other hosts' observers, as the link knows them."""

    async def join_viewer(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serves a viewer whose first frame was read; False, before anything was done: it cannot."""

    async def obey(self, order: Order) -> Part:
        """Takes a part among several observers."""


class ViewerServer:
    """Listens on `<run>/observer.sock` while the observer runs."""

    def __init__(self, observer: Observer, elsewhere: Elsewhere | None = None) -> None:
        """`elsewhere`: where viewers see more than this host, if it can be reached."""
        self._observer = observer
        self._elsewhere = elsewhere
        self._path = observer.folder.socket
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Begins to listen; a socket left by a dead observer is replaced.

        Raises:
            OSError: the path cannot be bound (107 bytes are the system's limit).
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        finally:
            os.umask(mask)

    async def close(self) -> None:
        """Lets go of the viewers and removes the socket."""
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
            if _peer_uid(writer) in (os.getuid(), 0):
                await _Viewer(self._observer, reader, writer).serve(self._elsewhere)
        except (OSError, ValueError, msgspec.DecodeError, EOFError, asyncio.TimeoutError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("socket")
    credentials = raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[1])


class _Viewer:
    """One connection."""

    def __init__(
        self, observer: Observer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._observer = observer
        self._reader = reader
        self._writer = writer
        self._queue: asyncio.Queue[Wire] = asyncio.Queue()
        self._queued = 0

    async def serve(self, elsewhere: Elsewhere | None) -> None:
        sender: asyncio.Task[None] | None = None
        # Who only connects is no viewer, and must not keep the observer from its end.
        first = await asyncio.wait_for(read_frame(self._reader), FIRST_WITHIN_S)
        request = msgspec.msgpack.decode(first, type=Request)
        if request.want == "verdict":
            return await self._answer(await self._observer.verdict())
        if request.want == "part" and request.order is not None and elsewhere is not None:
            return await self._answer(await elsewhere.obey(request.order))
        self._observer.viewers += 1
        try:
            framed = _LENGTH.pack(len(first)) + first
            if elsewhere and await elsewhere.join_viewer(framed, self._reader, self._writer):
                return None
            while True:
                if request.want == "events" and sender is None:
                    self._observer.sinks.append(self._take)
                    sender = asyncio.create_task(self._send())
                elif request.want == "dump":
                    path = await self._observer.dump(request.reason or "a viewer asked")
                    told = f"incident written to {path}" if path else NOTHING_WRITTEN
                    self._put(Wire(None, 0, 0, b"", told))
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
        body = msgspec.msgpack.encode(answer)
        self._writer.write(_LENGTH.pack(len(body)) + body)
        await self._writer.drain()

    def _take(self, entry: Entry) -> None:
        self._put(to_wire(entry))

    def _put(self, wire: Wire) -> None:
        self._queued += len(wire.payload) + _OVERHEAD
        if self._queued > QUEUE_LIMIT:
            # It can connect again and read everything from the journals.
            self._writer.transport.abort()
            return
        self._queue.put_nowait(wire)

    async def _send(self) -> None:
        history = await asyncio.to_thread(read_entries, self._observer.folder)
        batch: list[Wire] = []
        size = 0
        for entry in history:
            wire = to_wire(entry)
            if size + len(wire.payload) > FRAME_LIMIT // 4:
                await self._write(batch)
                batch, size = [], 0
            batch.append(wire)
            size += len(wire.payload) + _OVERHEAD
        await self._write([*batch, Wire(None, 0, 0, b"")])
        await self._send_queue()

    async def _send_queue(self) -> None:
        while True:
            batch = [await self._queue.get()]
            size = len(batch[0].payload) + _OVERHEAD
            while not self._queue.empty() and size < FRAME_LIMIT // 4:
                batch.append(self._queue.get_nowait())
                size += len(batch[-1].payload) + _OVERHEAD
            await self._write(batch)
            self._queued -= size

    async def _write(self, batch: list[Wire]) -> None:
        self._writer.write(pack(batch))
        await self._writer.drain()
