"""Serves viewers of this user on a Unix socket: a picture of the state, then what changes.

Frames are a u32 length and msgpack. A viewer that does not keep up gets another picture; one that reads
nothing, or sends anything but a request, is disconnected; the observer continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from distwatch.observer.background import close_writer, end_tasks, wait_for_any
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.checkpoint import state_form
from distwatch.observer.journals.reading import Entry, Reading
from distwatch.observer.link.messages import CaughtUp, Message
from distwatch.observer.viewers.differences import (
    DIFFERENCES_MOST,
    Differences,
    Item,
    batches_of,
)
from distwatch.observer.viewers.messages import (
    PART_SIZE,
    Answer,
    PicturePart,
    Request,
    pack,
    read_frame,
)
from distwatch.observer.viewers.pictures import Pictures
from distwatch.observer_socket import LENGTH, framed, peer_uid
from distwatch.socket_path import within_limit
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader, Record

if TYPE_CHECKING:
    # At run time, viewers must not load the link.
    from distwatch.observer.link.start import Link

MISSED_AT_MOST = 8
"""How many times DIFFERENCES_MOST a viewer may miss without reading anything."""
AT_ONCE = 1024 * 1024
"""Bytes that may be on their way: what comes after them takes the longer to arrive."""
HISTORY_AT_ONCE = 4 * 1024 * 1024
EVERY_S = 0.1
PROCESSES_A_SECOND = 10_000
"""How many processes' values a viewer can take in a second."""
FIRST_WITHIN_S = 10.0


def dump_text(path: str) -> str:
    """The answer to a request for a dump. `path`: the incident's folder; '' where there is none."""
    if path:
        return f"incident written to {path}"
    return "could not write an incident: see the run's NotObserved events"


class ViewerServer:
    """Listens on `<run>/observer.sock` while the observer runs."""

    def __init__(self, observer: Observer, link: Link | None = None) -> None:
        """`link`: shows viewers more than this host, where it can."""
        self._observer = observer
        self._link = link
        self._path = observer.folder.socket
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pictures = Pictures(observer)

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
        self._pictures.forget()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if peer_uid(writer.get_extra_info("socket")) in (os.getuid(), 0):
                viewer = _Viewer(self._observer, self._pictures, reader, writer)
                await viewer.serve(self._link)
        except (OSError, ValueError, msgspec.DecodeError, EOFError, asyncio.TimeoutError):
            pass
        finally:
            await close_writer(writer)


def _chunk_of(streams: Iterator[tuple[FileHeader, list[Record]]]) -> list[Item]:
    """The next whole streams, enough for some frames; empty: there are no more.

    Ten thousand ranks have ten thousand short streams: one at a time would mean as many waits.
    """
    items: list[Item] = []
    size = 0
    for header, records in streams:
        items += [(header, r.seq, r.time_ns, r.payload) for r in records]
        size += sum(len(r.payload) for r in records)
        if size > HISTORY_AT_ONCE:
            break
    return items


class _Viewer:
    """One connection."""

    def __init__(
        self,
        observer: Observer,
        pictures: Pictures,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._observer = observer
        self._pictures = pictures
        self._reader = reader
        self._writer = writer
        self._new = Differences()
        self._more, self._judged = asyncio.Event(), asyncio.Event()
        self._writing = asyncio.Lock()

    async def serve(self, link: Link | None) -> None:
        sender: asyncio.Task[None] | None = None
        # A client that only connects is not a viewer, and must not keep the observer from ending.
        first = await asyncio.wait_for(read_frame(self._reader), FIRST_WITHIN_S)
        request = msgspec.msgpack.decode(first, type=Request)
        if request.want == "verdict":
            return await self._reply(await self._observer.verdict())
        if request.want == "part" and request.order is not None and link is not None:
            return await self._reply(await link.obey(request.order))
        self._observer.viewers += 1
        try:
            again = LENGTH.pack(len(first)) + first
            if link and await link.join_viewer(again, self._reader, self._writer):
                return None
            while True:
                if request.want == "events" and sender is None:
                    self._observer.sinks.append(self._take)
                    sender = asyncio.create_task(self._send(request.form))
                elif request.want == "dump":
                    path = await self._observer.dump(request.reason or "a viewer asked")
                    await self._write(Answer(text=dump_text(path)))
                else:
                    return None
                request = msgspec.msgpack.decode(await read_frame(self._reader), type=Request)
        finally:
            self._observer.viewers -= 1
            if self._take in self._observer.sinks:
                self._observer.sinks.remove(self._take)
            if sender is not None:
                await end_tasks(sender)

    async def _reply(self, answer: msgspec.Struct) -> None:
        self._writer.write(framed(answer))
        await self._writer.drain()

    def _take(self, entry: Entry) -> None:
        self._new.take(entry)
        self._more.set()
        if isinstance(entry.event, ev.FindingsJudged):
            self._judged.set()
        if self._new.size > MISSED_AT_MOST * DIFFERENCES_MOST:
            # The viewer can connect again, and then gets a picture.
            self._writer.transport.abort()

    async def _send(self, form: str) -> None:
        self._writer.transport.set_write_buffer_limits(high=AT_ONCE)
        await self._send_all(form)
        while True:
            self._more.clear()
            self._judged.clear()
            if self._new.too_many:
                await self._send_all(form)
            new, self._new = self._new, Differences()
            await self._write_items(new.items())
            await self._write(CaughtUp())
            every_s = max(EVERY_S, len(self._observer.state.processes) / PROCESSES_A_SECOND)
            await wait_for_any(self._judged, within_s=every_s)
            await self._more.wait()

    async def _send_all(self, form: str) -> None:
        """Sends the state, or the records to one that reads it in another form."""
        picture = await self._pictures.newest() if form == state_form() else None
        if picture is None:
            self._new = Differences()
            await self._send_history()
        else:
            sealed, self._new = picture
            for at in range(0, len(sealed), PART_SIZE):
                after = at + PART_SIZE
                await self._write(PicturePart(content=sealed[at:after], last=after >= len(sealed)))

    async def _send_history(self) -> None:
        reading = Reading(self._observer.folder)
        streams = reading.streams()
        while chunk := await asyncio.to_thread(_chunk_of, streams):
            await self._write_items(chunk)
        rest = await asyncio.to_thread(reading.rest)
        await self._write_items((e.header, 0, e.time_ns, encode_event(e.event)) for e in rest)

    async def _write_items(self, items: Iterable[Item]) -> None:
        for batch in batches_of(items):
            await self._write(pack(batch))

    async def _write(self, message: Message) -> None:
        async with self._writing:
            self._writer.write(framed(message))
            await self._writer.drain()
