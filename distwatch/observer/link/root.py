"""The root's side: takes the leaves' records into its own folder and state, and asks for looks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from distwatch.observer.background import end_tasks
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.refusal import Refusal
from distwatch.observer.link import messages as say
from distwatch.observer.link.carrier import HANDSHAKE_WITHIN_S, Listener
from distwatch.observer.link.channel import Channel, LinkBroken, LinkRefused, join
from distwatch.observer.link.handshake import accept
from distwatch.observer.link.mirror import Mirror, is_host_name, objection_to
from distwatch.observer.link.root_address import RootAddress
from distwatch.runfolder import name_of
from distwatch.socket_path import within_limit
from distwatch.state import events as ev
from distwatch.state.events import decode_event
from distwatch.state.frames import MAX_PAYLOAD, FileHeader, Record

LOST_AFTER_S = 5.0
REJOIN_WITHIN_S = 60.0
"""How long the root outlives its own ranks, waiting for a lost leaf."""
SEEN_EVERY_S = 1.0
TRY_DISK_AGAIN_S = 5.0
PROCESSES_A_SECOND = 10_000
"""How many processes' live values the root can take in a second."""
LIVE_MOST_S = 2.0
BUSY_SHARE = 4.0
"""A busy machine makes a turn of the root so many times longer."""
OPERATIONS_HELD = 16_384
"""How many newest operations are sent of all pulses together; a few of each are always sent."""
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
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaves: dict[str, _Leaf] = {}
        self._lost: dict[str, float] = {}
        self._said: set[str] = set()
        self._looks = 0
        self._begin_anew()

    async def start(self, address: str, port: int) -> None:
        """Starts listening; port 0 is any. Raises OSError where the address is not available."""
        listener = Listener(self.token, self._welcome, self._refuse)
        self.place = listener.start(address, port)
        self._listener = listener
        self._observer.others = self

    async def close(self) -> None:
        """Disconnects everybody; everything received is on disk."""
        if self._listener is None:
            return
        self._observer.others = None
        await end_tasks(*self._tasks)
        await self._listener.close()
        with contextlib.suppress(OSError):
            self._mirror.flush()
        self._mirror.close()

    # ---- what the observer asks ----------------------------------------------------------------

    def holds_on(self) -> bool:
        """Whether a leaf is connected, or may soon come back."""
        now = time.monotonic()
        return bool(self._leaves) or any(
            now - since < REJOIN_WITHIN_S for since in self._lost.values()
        )

    def ask_looks(self, why: str, *, ask: bool = False) -> list[asyncio.Future[None]]:
        """Asks every leaf for a look; each future is done when the leaf's results have arrived."""
        self._looks += 1
        look = say.Look(number=self._looks, why=why[:400], ask=ask)
        return [leaf.ask(look) for leaf in self._leaves.values()]

    def ask_to_end(self, order: ev.RankAborted) -> None:
        """Asks the leaf of that host to end a process of its own."""
        if (leaf := self._leaves.get(order.host)) is not None:
            leaf.send(
                say.End(
                    process=order.process,
                    incident=order.incident,
                    code=order.code,
                    summary=order.summary,
                )
            )

    # ---- connections ---------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Counts the leaves of an earlier root as lost until they connect again."""
        known = self._observer.state.hosts.get(self._host)
        for peer, link in (dict(known.links) if known else {}).items():
            if not link.ended and is_host_name(peer):
                self._lose(peer, "the root's observer was restarted", 0.0)

    def _lose(self, peer: str, why: str, silent_s: float) -> None:
        self._lost[peer] = time.monotonic()
        self._observer.recording.record(
            ev.LinkChanged(host=self._host, peer=peer, linked=False, why=why, silent_s=silent_s)
        )

    def _welcome(self, channel: Channel, address: str) -> None:
        task = asyncio.create_task(self._serve(channel, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, channel: Channel, address: str) -> None:
        try:
            hello = await asyncio.wait_for(accept(channel, self._objection), HANDSHAKE_WITHIN_S)
            if hello.kind == "viewer":
                with within_limit(self._observer.folder.socket) as path:
                    viewers = await asyncio.open_unix_connection(path)
                await join(channel, *viewers)
            else:
                await self._serve_leaf(channel, hello)
        except (LinkRefused, LinkBroken) as error:
            self._refuse(address, str(error))
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            log.info("connection of %s: %r", address, error)
        finally:
            channel.abort()

    def _objection(self, hello: say.Hello) -> str:
        ours = name_of(self._observer.folder.run_id)
        if name_of(hello.run_id) != ours:
            return f"this observer watches run {ours}, not {name_of(hello.run_id)[:80]}"
        if hello.kind == "viewer":
            return ""
        if not is_host_name(hello.host):
            return f"{hello.host[:80]!r} is not a host name"
        tracking = self._observer.tracking
        if tracking.processes and not tracking.living() and hello.host not in self._lost:
            return f"run {ours} has ended here"  # a later launch with that name is another run
        there = self._leaves.get(hello.host)
        if hello.host == self._host or (there is not None and there.node != hello.node):
            return f"two machines are named {hello.host}: give each its own host name"
        return ""

    async def _serve_leaf(self, channel: Channel, hello: say.Hello) -> None:
        # A broken connection may look intact on this side long after the leaf has reconnected.
        if (before := self._leaves.get(hello.host)) is not None:
            before.replace()
        leaf = _Leaf(self._observer, self._mirror, channel, hello)
        self._leaves[hello.host] = leaf
        self._lost.pop(hello.host, None)
        why = "its connection ended"
        try:
            await leaf.resume()
            await leaf.serve()
        except LinkBroken as error:
            why = f"it sent invalid data: {error}"
            with contextlib.suppress(OSError):
                await channel.send(say.encode(say.Refused(why=str(error)[:300])))
            raise
        except asyncio.TimeoutError:
            why = f"it was silent for {LOST_AFTER_S:.0f} s"
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

    def _refuse(self, address: str, reason: str) -> None:
        why = f"{address or 'a connection'} was refused: {reason}"
        log.warning("%s", why)
        if why not in self._said and len(self._said) < 64:
            self._said.add(why)
            self._observer.recording.miss("link", why)


class _Leaf:
    """One leaf's connection.

    Attributes:
        heard: when something last arrived.
        ended: it has said goodbye.
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
        self._refusal = Refusal(f"the journals of {hello.host}")
        self._behind = False
        self._resumes = 0

    async def resume(self) -> None:
        """Tells the leaf what is on disk: it continues from there."""
        cursors = await asyncio.to_thread(self._mirror.cursors, self._host)
        self._resumes += 1
        await self._channel.send(say.encode(say.Resume(number=self._resumes, cursors=cursors)))

    async def serve(self) -> None:
        """Receives until the leaf says goodbye; raises on any other end."""
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
                # Only now: before, that host's ranks would be judged by old data.
                recording = self._observer.recording
                root = recording.header.host
                recording.record(ev.LinkChanged(host=root, peer=self._host, linked=True))
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
        """Asks for a look; the future is done when it was taken, or when the leaf is gone."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[look.number] = answer
        self.send(look)
        return answer

    def send(self, message: say.Message) -> None:
        """Sends in the background; a leaf that is gone gets nothing."""
        task = asyncio.create_task(self._send_quietly(message))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    def replace(self) -> None:
        """Ends this connection: the same leaf has connected again."""
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
        """Checks the whole batch, writes it, then folds it."""
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
        """Writes the records; what the disk refuses is requested again later from the leaf's disk."""
        if self._behind and time.monotonic() > self._disk_at:
            self._behind = False
            await self.resume()
        # Batches sent before the resume would leave a gap.
        if self._behind or after != self._resumes:
            return
        try:
            for header, records in streams:
                self._mirror.keep(header, records)
        except OSError as error:
            self._behind, self._disk_at = True, time.monotonic() + TRY_DISK_AGAIN_S
            if self._refusal.note(error, 0):
                self._observer.recording.miss("disk", self._refusal.standing)
        else:
            if streams and self._refusal.stands:
                # The leaf has sent again what was refused.
                self._observer.recording.miss("disk", self._refusal.finish())


def _checked(batch: say.Batch, frame: say.Frame) -> tuple[FileHeader, Record, ev.Event | None]:
    """A frame's record, and its event; None where it holds none.

    A rank can write anything into its journal, and the leaf sends that unchanged: refusing it would
    cut the whole host off from the root for ever.
    """
    if not 0 <= frame.stream < len(batch.headers):
        raise LinkBroken("a frame of a stream that was not named")
    if not (0 <= frame.seq < 1 << 63 and 0 <= frame.time_ns < 1 << 63):
        raise LinkBroken("a frame whose numbers are out of range")
    if len(frame.payload) > MAX_PAYLOAD:
        raise LinkBroken("a frame that is too long for a journal")
    record = Record(seq=frame.seq, time_ns=frame.time_ns, payload=frame.payload)
    return batch.headers[frame.stream], record, decode_event(frame.payload)
