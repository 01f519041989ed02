"""A run seen through its observer's socket: a picture of its state, then what changes."""

from __future__ import annotations

import asyncio
import gc
import time

import msgspec

from distwatch.garbage import without_collections
from distwatch.observer.background import close_writer, end_tasks, wait_for_any
from distwatch.observer.journals.checkpoint import state_form, unseal_state
from distwatch.observer.link.messages import Batch
from distwatch.observer.lock import lock_holder
from distwatch.observer.targets.run_source import RunSource, SourceLost
from distwatch.observer.viewers.differences import entries_of
from distwatch.observer.viewers.messages import (
    PICTURE_LIMIT,
    Answer,
    PicturePart,
    Request,
    read_frame,
    unpack,
)
from distwatch.observer_socket import framed
from distwatch.runfolder import RunFolder
from distwatch.socket_path import within_limit
from distwatch.state.reducer import reduce

CONNECT_WITHIN_S = 2.0
HISTORY_WITHIN_S = 10.0
WHOLE_WITHIN_S = 120.0
ANSWER_WITHIN_S = 30.0
WAITING_MOST = 64
"""Frames that were received and not folded: the observer keeps the rest back, and makes it shorter."""


class LiveRun(RunSource):
    """A run seen through its observer's socket. The last state stays when the observer is lost."""

    def __init__(self, folder: RunFolder, note: str = "") -> None:
        super().__init__(folder, note or f"observer pid {lock_holder(folder) or '?'}")
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._parts = bytearray()
        self._picture = b""
        self._coming: list[Batch] = []
        """Of a turn of the observer's that is not over."""
        self._waiting: list[Batch] = []
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._awaits_answer = False
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()
        self._told_all = asyncio.Event()
        self._is_whole = False
        self._task: asyncio.Task[None] | None = None
        self._lost = ""

    async def open(self) -> None:
        """Connects; raises SourceLost where the observer does not answer."""
        await self._begin()
        await wait_for_any(self._told_all, within_s=HISTORY_WITHIN_S)
        await self.poll()

    async def open_whole(self) -> None:
        """As `open`, but waits for the whole history: a single verdict must not rest on a part of it.

        Raises:
            SourceLost: the observer does not answer, or hung up before the end of the history.
        """
        await self._begin()
        await wait_for_any(self._told_all, within_s=WHOLE_WITHIN_S)
        if not self._told_all.is_set():
            self._lost = f"the record of {self.run_id} did not arrive within {WHOLE_WITHIN_S:.0f} s"
        if not self._is_whole:
            raise SourceLost(
                self._lost or "the observer has ended", advice="Try again, or attach to it."
            )
        await self.poll()

    async def _begin(self) -> None:
        self._reader, self._writer = await self._connect()
        self._writer.write(framed(Request(want="events", form=state_form())))
        await self._writer.drain()
        self._task = asyncio.create_task(self._receive(self._reader))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = time.monotonic() + CONNECT_WITHIN_S
        while True:
            try:
                with within_limit(self.folder.socket) as path:
                    return await asyncio.open_unix_connection(path)
            except OSError as error:
                # The observer takes its lock before it listens.
                if time.monotonic() > deadline:
                    raise SourceLost(
                        f"the observer of {self.run_id} does not answer: {error}",
                        advice="`distwatch report` reads the same run from disk.",
                    ) from error
                await asyncio.sleep(0.05)

    async def poll(self) -> bool:
        """Folds what has arrived; raises SourceLost once when the observer has left."""
        picture, self._picture = self._picture, b""
        batches, self._waiting = self._waiting, []
        self._arrived.clear()
        self._taken.set()
        if picture:
            self._show(picture)
        for batch in batches:
            for entry in entries_of(batch):
                reduce(self.state, entry.header, entry.seq, entry.time_ns, entry.event)
        if not picture and not batches and self._lost:
            lost, self._lost = self._lost, ""
            self.live = False
            self.note = "the observer has left: this is its last state"
            raise SourceLost(lost)
        return bool(picture or batches)

    def _show(self, picture: bytes) -> None:
        with without_collections():
            state = unseal_state(picture)
            gc.freeze()  # as of a recording
        if state is None:
            self.live = False
            raise SourceLost("what the observer sent is no state", advice="Attach again.")
        state.run_id = self.run_id
        self.state = state

    async def wait(self, timeout_s: float) -> None:
        """Returns when something has arrived or the observer has left, or after `timeout_s`."""
        await wait_for_any(self._arrived, within_s=timeout_s)

    async def dump(self) -> str:
        if self._writer is None or not self.live:
            return "the observer has left and cannot be asked for a dump"
        self._writer.write(framed(Request(want="dump", reason="a person asked")))
        await self._writer.drain()
        # The answer comes after all that was told before it, and the caller may not poll meanwhile.
        self._awaits_answer = True
        self._taken.set()
        try:
            return await asyncio.wait_for(self._answers.get(), ANSWER_WITHIN_S)
        except asyncio.TimeoutError:
            return f"the observer did not answer within {ANSWER_WITHIN_S:.0f} s"
        finally:
            self._awaits_answer = False

    async def close(self) -> None:
        if self._task is not None:
            await end_tasks(self._task)
        if self._writer is not None:
            await close_writer(self._writer)

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(await read_frame(reader))
                self._arrived.set()
                # Until all was told, nobody may take anything.
                while self._holds_back():
                    self._taken.clear()
                    await self._taken.wait()
        except (OSError, ValueError, msgspec.DecodeError, EOFError):
            self._lost = "the observer has ended"
            self._arrived.set()
            self._told_all.set()

    def _holds_back(self) -> bool:
        full = len(self._waiting) >= WAITING_MOST
        return full and self._told_all.is_set() and not self._awaits_answer

    def _take(self, body: bytes) -> None:
        """Takes one message; raises ValueError where a picture would be too large."""
        message = unpack(body)
        if isinstance(message, Batch):
            self._coming.append(message)
        elif isinstance(message, PicturePart):
            self._parts += message.content
            if len(self._parts) > PICTURE_LIMIT:
                raise ValueError("a picture that is too large")
            if message.last:
                # All that came before is in it.
                self._picture, self._parts = bytes(self._parts), bytearray()
                self._coming, self._waiting = [], []
        elif isinstance(message, Answer):
            self._answers.put_nowait(message.text)
        else:
            # Only now: in the middle, some hosts' values would be newer than others', as never at the observer.
            self._waiting += self._coming
            self._coming = []
            self._is_whole = True
            self._told_all.set()
