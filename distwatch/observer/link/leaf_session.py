"""One leaf as its root sees it: takes its records, says what was taken, and passes orders on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from distwatch.observer.daemon import Observer
from distwatch.observer.journals.refusal import Refusal
from distwatch.observer.link import messages as say
from distwatch.observer.link.channel import Channel, LinkBroken
from distwatch.observer.link.hearings import note_heard
from distwatch.observer.link.mirror import Mirror, is_host_name, objection_to
from distwatch.observer.link.racks import RACK_NAME_MOST, Member, Step
from distwatch.observer.link.turns import Turns
from distwatch.state import events as ev
from distwatch.state.events import decode_event
from distwatch.state.frames import MAX_PAYLOAD, FileHeader, Record
from distwatch.visible_text import visible_line

LOST_AFTER_S = 5.0
SEEN_EVERY_S = 1.0
REASSURED_AFTER_S = 2.0
TRY_DISK_AGAIN_S = 5.0
PROCESSES_A_SECOND = 10_000
"""How many processes' live values the root can take in a second."""
LIVE_MOST_S = 10.0
LATE_FROM_S = 1.0
"""Values that come later than this were held up on their way."""
LEAVES_A_SECOND = 2_500
"""How many leaves' messages the root can take in a second, beside what is in them."""
BUSY_SHARE = 4.0
"""A busy machine makes a turn of the root so many times longer."""
OPERATIONS_HELD = 16_384
"""How many newest operations are sent of all pulses together; a few of each are always sent."""


class Company(Protocol):
    """The leaves of a root, all together."""

    leaves: dict[str, LeafSession]
    turns: Turns

    def note_host(self, host: str) -> None:
        """A host has come, by itself or through the root of its rack: it is nowhere else."""
        ...

    def regroup_soon(self) -> None:
        """Something has changed that may put hosts into racks."""
        ...


class LeafSession:
    """One leaf's connection.

    Attributes:
        heard: when something last arrived.
        ended: it has said goodbye.
        hosts: the other hosts whose records it passes on, as the root of a rack.
        goes_to: the root of its rack, to which it was sent; or ''.
    """

    def __init__(
        self,
        observer: Observer,
        mirror: Mirror,
        channel: Channel,
        hello: say.Hello,
        address: str,
        company: Company,
    ) -> None:
        """`address`: where it comes from."""
        self._observer = observer
        self._company = company
        self._mirror = mirror
        self._channel = channel
        self._host = hello.host
        self._hello = hello
        self._address = address
        self._unable = self._invited = False
        self.hosts: set[str] = set()
        self.goes_to = ""
        self.node = hello.node
        self.heard = time.monotonic()
        self.ended = False
        self._seen_said = self._answered = self.heard
        self._live = 0
        self._pending: dict[int, asyncio.Future[None]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._disk_at = 0.0
        self._refusal = Refusal(f"the journals of {hello.host}")
        self._behind = False
        self._resumes = 0

    async def resume(self) -> None:
        """Tells the leaf what is on disk: it continues from there."""
        hosts = {self._host}
        if self._hello.place:
            # What is missing here would be sent a second time, and dropped.
            known = self._observer.state.hosts
            hosts |= known[self._host].links.keys() & known.keys() if self._host in known else set()
        cursors = await asyncio.to_thread(self._mirror.cursors, hosts)
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
                await self._company.turns.begin()
                await self._take(message)
            elif isinstance(message, say.CaughtUp):
                # Only now: before, that host's ranks would be judged by old data.
                recording = self._observer.recording
                root = recording.header.host
                recording.record(ev.LinkChanged(host=root, peer=self._host, linked=True))
                self._company.regroup_soon()
            elif isinstance(message, say.Unable):
                self._unable, self._invited = True, False
                self._observer.recording.miss(
                    "link", f"{self._host} {visible_line(message.why[:300])}"
                )
                self._company.regroup_soon()
            elif isinstance(message, say.Looked):
                if (waiting := self._pending.pop(message.number, None)) and not waiting.done():
                    waiting.set_result(None)
            elif await self._let_go(message):
                return
            live = message.live if isinstance(message, say.Batch) else 0
            if live:
                self._note_values(live)
            # A leaf that sends a long history reads nothing meanwhile: it is told the newest state later.
            is_due = live or self.heard - self._seen_said > SEEN_EVERY_S
            if is_due and await self._channel.send_at_once(say.encode(self._seen())):
                self._seen_said = time.monotonic()

    async def _let_go(self, bye: say.Bye) -> bool:
        """Answers a goodbye, unless not all of its records are on disk: then it is asked for them again."""
        if self._behind:
            await asyncio.sleep(max(0.0, self._disk_at - time.monotonic()))
            await self._ask_again()
        elif bye.after == self._resumes:
            self.ended = True
            await self._channel.send(say.encode(say.Bye()))
        return self.ended

    def _note_values(self, live: int) -> None:
        """Its newest values were taken. Who sent them had got the answer to the ones before: no clock but this one
        is needed to know how old they are at most."""
        now = time.monotonic()
        late_s = now - self._answered - self._every_s() - LATE_FROM_S if self._live else 0.0
        self._live, self._answered = max(self._live, live), now
        known_ns = int((now - max(0.0, late_s)) * 1e9)
        for name in (self._host, *self.hosts):
            note_heard(self._observer, name, known_ns)

    def reassure(self) -> None:
        """Says that this side is alive, where that was not said for a while: what the leaf has sent may
        have to wait for its turn."""
        now = time.monotonic()
        if now - self._seen_said > REASSURED_AFTER_S:
            self._seen_said = now
            self._send_in_background(self._seen)

    def _seen(self) -> say.Seen:
        processes = max(1, len(self._observer.state.processes))
        return say.Seen(
            live_every_s=self._every_s(),
            send_every_s=len(self._company.leaves) / LEAVES_A_SECOND,
            operations=OPERATIONS_HELD // processes,
            busy_s=BUSY_SHARE * self._observer.duty.longest_turn_s,
            live=self._live,
        )

    def _every_s(self) -> float:
        usual_s = len(self._observer.state.processes) / PROCESSES_A_SECOND
        # Of very many ranks that hang, stacks are wanted sooner than values which nobody has time to judge.
        return min(LIVE_MOST_S, max(usual_s, self._observer.duty.values_every_s))

    def ask(self, look: say.Look) -> asyncio.Future[None]:
        """Asks for a look; the future is done when it was taken, or when the leaf is gone."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[look.number] = answer
        self.send(look)
        return answer

    def send(self, message: say.Message) -> None:
        """Sends in the background; a leaf that is gone gets nothing."""
        self._send_in_background(lambda: message)

    def _send_in_background(self, message: Callable[[], say.Message]) -> None:
        task = asyncio.create_task(self._send_quietly(message))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    @property
    def member(self) -> Member:
        """It as one of those that may be put into racks."""
        return Member(
            host=self._host,
            rack=self._hello.rack[:RACK_NAME_MOST],
            place=self._hello.place,
            holds=len(self.hosts),
            unreachable=self._hello.unreachable,
            unable=self._unable,
            invited=self._invited,
            goes_to=self.goes_to,
        )

    def take_step(self, step: Step) -> None:
        """Sends it to the root of its rack, or makes it one."""
        if step.place:
            self.goes_to = step.place
            self.send(say.Move(place=step.place))
        else:
            self._invited = True
            self.send(say.Serve(address=self._address))

    def replace(self) -> None:
        """Ends this connection: the same leaf has connected again."""
        self._channel.abort()

    def leave(self) -> None:
        for name in (self._host, *self.hosts):
            note_heard(self._observer, name, None)
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_result(None)
        for task in self._asking:
            task.cancel()

    async def _send_quietly(self, message: Callable[[], say.Message]) -> None:
        # Made only now: what this side says of itself must not overtake what it has said since.
        with contextlib.suppress(OSError):
            await self._channel.send(say.encode(message()))

    async def _take(self, batch: say.Batch) -> None:
        """Checks the whole batch, writes it, then folds it."""
        for header in batch.headers:
            if objection := objection_to(header, self._host_of(header)):
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
            # How old a host's values are is known here alone.
            if event is not None and not isinstance(event, ev.HostHeard):
                self._observer.fold(header, record.seq, record.time_ns, event, record.payload)

    def _host_of(self, header: FileHeader) -> str:
        """Whose such a stream may be: this leaf's, or that of any host which it passes on."""
        if not self._hello.place or header.host in (
            self._host,
            self._observer.recording.header.host,
        ):
            return self._host
        if header.host not in self.hosts and is_host_name(header.host):
            self._company.note_host(header.host)
            self.hosts.add(header.host)
            self._company.regroup_soon()
        return header.host

    async def _ask_again(self) -> None:
        self._behind = False
        await self.resume()

    async def _keep(self, after: int, streams: list[tuple[FileHeader, list[Record]]]) -> None:
        """Writes the records; what the disk refuses is requested again later from the leaf's disk."""
        if self._behind and time.monotonic() > self._disk_at:
            await self._ask_again()
        # Batches sent before the resume would leave a gap.
        if self._behind or after != self._resumes:
            return
        try:
            for header, records in streams:
                self._mirror.keep(header, records)
                for record in records:
                    self._observer.hand_on(header, record)
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
