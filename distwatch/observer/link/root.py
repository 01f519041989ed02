"""The root's side: takes what leaves send into its own folder and state, and asks them for looks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec

from distwatch.observer.background import end_tasks
from distwatch.observer.daemon import Observer
from distwatch.observer.link import messages as say
from distwatch.observer.link.channel import (
    HANDSHAKE_WITHIN_S,
    Channel,
    LinkBroken,
    LinkRefused,
    accept,
)
from distwatch.observer.link.mirror import Mirror, is_host_name, objection_to
from distwatch.observer.link.root_address import RootAddress
from distwatch.observer.link.viewers import join_local
from distwatch.observer.strangers import Strangers
from distwatch.probes.connections import owner_of_peer
from distwatch.runfolder import name_of
from distwatch.state import events as ev
from distwatch.state.addresses import is_loopback
from distwatch.state.events import decode_event
from distwatch.state.frames import MAX_PAYLOAD, FileHeader, Record

LOST_AFTER_S = 5.0
REJOIN_WITHIN_S = 60.0
"""For how long the root outlives its own ranks for a leaf that it lost."""
SEEN_EVERY_S = 1.0
TRY_DISK_AGAIN_S = 5.0
PROCESSES_A_SECOND = 10_000
"""Of so many processes the live values are taken in a second."""
LIVE_MOST_S = 2.0
BUSY_SHARE = 4.0
"""A machine that is busy elsewhere makes a turn of the root so many times longer."""
OPERATIONS_HELD = 16_384
"""Of so many operations of all pulses together the newest are told; a few of each always."""
STRANGERS = 16
"""The most connections that may be on their way to prove themselves at one time."""
log = logging.getLogger("distwatch.observer")


class Root:
    """Listens for leaves, and for viewers of other hosts, while the observer runs.

    Attributes:
        place: where it listens, once it does.
    """

    def __init__(self, observer: Observer, token: bytes) -> None:
        self._observer = observer
        self.token = token
        self.place: RootAddress | None = None
        self._host = observer.recording.header.host
        self._mirror = Mirror(observer.folder)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: Strangers[asyncio.StreamWriter] = Strangers(STRANGERS)
        self._leaves: dict[str, _Leaf] = {}
        self._lost: dict[str, float] = {}
        self._said: set[str] = set()
        self._looks = 0
        self._begin_anew()

    async def start(self, address: str, port: int) -> None:
        """Begins to listen, at any port where it is 0; raises OSError where it cannot be had."""
        self._server = await asyncio.start_server(
            self._welcome, address, port, limit=say.BATCH_SIZE
        )
        self.place = RootAddress(address, self._server.sockets[0].getsockname()[1])
        self._observer.others = self

    async def close(self) -> None:
        """Takes leave of everybody; what was taken is on disk."""
        if self._server is None:
            return
        self._observer.others = None
        self._server.close()
        await end_tasks(*self._tasks)
        with contextlib.suppress(OSError):
            self._mirror.flush()
        self._mirror.close()

    # ---- what the observer asks ----------------------------------------------------------------

    def holds_on(self) -> bool:
        """Whether there is, or soon may be again, a leaf to hear."""
        now = time.monotonic()
        return bool(self._leaves) or any(
            now - since < REJOIN_WITHIN_S for since in self._lost.values()
        )

    def ask_looks(self, why: str, *, ask: bool = False) -> list[asyncio.Future[None]]:
        """Has every leaf look at its ranks; each future is done once its look has arrived."""
        self._looks += 1
        look = say.Look(number=self._looks, why=why[:400], ask=ask)
        return [leaf.ask(look) for leaf in self._leaves.values()]

    # ---- connections ---------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Whom an earlier root had seen, this one has lost until they come again."""
        known = self._observer.state.hosts.get(self._host)
        for peer, link in (dict(known.links) if known else {}).items():
            if not link.ended and is_host_name(peer):
                self._lose(peer, "the root's observer began anew", 0.0)

    def _lose(self, peer: str, why: str, silent_s: float) -> None:
        self._lost[peer] = time.monotonic()
        self._observer.recording.record(
            ev.LinkChanged(host=self._host, peer=peer, linked=False, why=why, silent_s=silent_s)
        )

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        address = str(peer[0]) if peer else "?"
        try:
            channel, hello = await self._proved(reader, writer)
            if hello.kind == "viewer":
                await join_local(channel, self._observer.folder.socket)
            else:
                await self._serve_leaf(channel, hello)
        except (LinkRefused, LinkBroken) as error:
            self._say(f"{address} is turned away: {error}")
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            log.info("connection of %s: %r", address, error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _proved(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[Channel, say.Hello]:
        if (gone := self._strangers.add(writer, _who(writer))) is not None:
            gone.transport.abort()
        try:
            return await asyncio.wait_for(
                accept(reader, writer, self.token, self._objection), HANDSHAKE_WITHIN_S
            )
        finally:
            self._strangers.remove(writer)

    def _objection(self, hello: say.Hello) -> str:
        ours = name_of(self._observer.folder.run_id)
        if name_of(hello.run_id) != ours:
            return f"this observer watches run {ours}, not {name_of(hello.run_id)[:80]}"
        if hello.kind == "viewer":
            return ""
        if not is_host_name(hello.host):
            return f"{hello.host[:80]!r} is no host's name"
        tracking = self._observer.tracking
        if tracking.processes and not tracking.living() and hello.host not in self._lost:
            return f"run {ours} has ended here"  # a later launch of that name is another run
        there = self._leaves.get(hello.host)
        if hello.host == self._host or (there is not None and there.node != hello.node):
            return f"two machines are named {hello.host}: give each a host name of its own"
        return ""

    async def _serve_leaf(self, channel: Channel, hello: say.Hello) -> None:
        # A cut connection may seem whole on this side long after the leaf has come again.
        if (before := self._leaves.get(hello.host)) is not None:
            before.replace()
        leaf = _Leaf(self._observer, self._mirror, channel, hello)
        self._leaves[hello.host] = leaf
        self._lost.pop(hello.host, None)
        why = "its connection ended"
        try:
            await leaf.resume()
            await leaf.serve(self._caught_up)
        except LinkBroken as error:
            why = f"it sent what cannot be: {error}"
            with contextlib.suppress(OSError):
                await channel.send(say.encode(say.Refused(why=str(error)[:300])))
            raise
        except asyncio.TimeoutError:
            why = f"nothing came for {LOST_AFTER_S:.0f} s"
            raise
        finally:
            leaf.leave()
            if self._leaves.get(hello.host) is leaf:
                del self._leaves[hello.host]
                if leaf.ended:
                    self._observer.recording.record(
                        ev.LinkChanged(
                            host=self._host, peer=hello.host, linked=False, ended=True,
                            why="its observer has ended",
                        )
                    )  # fmt: skip
                else:
                    self._lose(hello.host, why, time.monotonic() - leaf.heard)

    def _caught_up(self, host: str) -> None:
        """Only now it is seen as it stands: before, ranks there would be judged by what was."""
        self._observer.recording.record(ev.LinkChanged(host=self._host, peer=host, linked=True))

    def _say(self, why: str) -> None:
        log.warning("%s", why)
        if why not in self._said and len(self._said) < 64:
            self._said.add(why)
            self._observer.recording.record(ev.NotObserved(host=self._host, what="link", why=why))


def _who(writer: asyncio.StreamWriter) -> str:
    """Who has connected, as far as that can be seen before they say anything."""
    peer, here = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    address = str(peer[0]) if peer else "?"
    if not is_loopback(address):
        return address
    return f"uid {owner_of_peer(peer[:2], here[:2])}"


class _Leaf:
    """One leaf's connection.

    Attributes:
        heard: when something last came.
        ended: it has taken its leave.
    """

    def __init__(
        self, observer: Observer, mirror: Mirror, channel: Channel, hello: say.Hello
    ) -> None:
        self._observer = observer
        self._mirror = mirror
        self._channel = channel
        self._host = hello.host
        self.node = hello.node
        self.heard = time.monotonic()
        self.ended = False
        self._seen_said = 0.0
        self._live = 0
        self._pending: dict[int, asyncio.Future[None]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._disk_at = 0.0
        self._behind = False
        self._resumes = 0

    async def resume(self) -> None:
        """Tells the leaf what is on disk, which is what it goes on from."""
        cursors = await asyncio.to_thread(self._mirror.cursors, self._host)
        self._resumes += 1
        await self._channel.send(say.encode(say.Resume(number=self._resumes, cursors=cursors)))

    async def serve(self, caught_up: Callable[[str], None]) -> None:
        """Takes what comes until the leaf leaves; raises what ends it otherwise.

        Args:
            caught_up: told the leaf's host once all that was missing has come.
        """
        while True:
            body = await self._channel.receive_within(LOST_AFTER_S)
            self.heard = time.monotonic()
            try:
                message = say.decode_from_leaf(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise LinkBroken(f"a message that cannot be read: {error}") from error
            if isinstance(message, say.Batch):
                await self._take(message)
            elif isinstance(message, say.CaughtUp):
                caught_up(self._host)
            elif isinstance(message, say.Looked):
                if (waiting := self._pending.pop(message.number, None)) and not waiting.done():
                    waiting.set_result(None)
            else:
                self.ended = True
                await self._channel.send(say.encode(say.Bye()))
                return
            live = message.live if isinstance(message, say.Batch) else 0
            self._live = max(self._live, live)
            if live or self.heard - self._seen_said > SEEN_EVERY_S:
                self._seen_said = self.heard
                await asyncio.wait_for(self._channel.send(self._seen()), LOST_AFTER_S)

    def _seen(self) -> bytes:
        processes = max(1, len(self._observer.state.processes))
        every_s = min(LIVE_MOST_S, processes / PROCESSES_A_SECOND)
        seen = say.Seen(
            live_every_s=every_s,
            operations=OPERATIONS_HELD // processes,
            busy_s=BUSY_SHARE * self._observer.longest_turn_s,
            live=self._live,
        )
        return say.encode(seen)

    def ask(self, look: say.Look) -> asyncio.Future[None]:
        """Asks for a look; done once it has been taken, or never can be."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[look.number] = answer
        task = asyncio.create_task(self._send_quietly(look))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return answer

    def replace(self) -> None:
        """The same leaf has come again: this connection is over."""
        self._channel.abort()

    def leave(self) -> None:
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_result(None)
        for task in self._asking:
            task.cancel()

    async def _send_quietly(self, message: say.Message) -> None:
        with contextlib.suppress(OSError):
            await self._channel.send(say.encode(message))

    async def _take(self, batch: say.Batch) -> None:
        """Checks it all, writes it, then folds it."""
        for header in batch.headers:
            if objection := objection_to(header, self._host):
                raise LinkBroken(objection)
        entries: list[tuple[FileHeader, Record, ev.Event | None]] = []
        kept: dict[int, list[Record]] = {}
        for frame in batch.frames:
            entries.append(_checked(batch, frame))
            if frame.seq:
                kept.setdefault(frame.stream, []).append(entries[-1][1])
        await self._keep(
            batch.after, [(batch.headers[index], records) for index, records in kept.items()]
        )
        for header, record, event in entries:
            if event is not None:
                self._observer.fold(header, record.seq, record.time_ns, event, record.payload)

    async def _keep(self, after: int, streams: list[tuple[FileHeader, list[Record]]]) -> None:
        """What the disk refuses is asked for once more later: the leaf has it on its own."""
        if self._behind and time.monotonic() > self._disk_at:
            self._behind = False
            await self.resume()
        # What was on its way before that would leave a gap.
        if self._behind or after != self._resumes:
            return
        try:
            for header, records in streams:
                self._mirror.keep(header, records)
        except OSError as error:
            self._behind, self._disk_at = True, time.monotonic() + TRY_DISK_AGAIN_S
            host = self._observer.recording.header.host
            why = f"the journals of {self._host} are not on the root's disk: {error.strerror}"
            self._observer.recording.record(ev.NotObserved(host=host, what="disk", why=why))


def _checked(batch: say.Batch, frame: say.Frame) -> tuple[FileHeader, Record, ev.Event | None]:
    """A frame's record, and its event; None where it holds none.

    A rank can put what it likes into its journal, and the leaf sends that as it stands: to refuse it
    would part the whole host from the root for ever.
    """
    if not 0 <= frame.stream < len(batch.headers):
        raise LinkBroken("a frame of a stream that was not named")
    if not (0 <= frame.seq < 1 << 63 and 0 <= frame.time_ns < 1 << 63):
        raise LinkBroken("a frame whose numbers are out of range")
    if len(frame.payload) > MAX_PAYLOAD:
        raise LinkBroken("a frame that is too long for a journal")
    record = Record(seq=frame.seq, time_ns=frame.time_ns, payload=frame.payload)
    return batch.headers[frame.stream], record, decode_event(frame.payload)
