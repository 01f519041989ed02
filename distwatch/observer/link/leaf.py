"""The leaf's side: sends this host's journals to the root, and takes looks for it.

The leaf continues to journal and judge by itself, whatever happens to the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from typing import Literal

import msgspec

from distwatch.observer.background import end_tasks, wait_for_any
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.recording import OPERATIONS_KEPT
from distwatch.observer.link import messages as say
from distwatch.observer.link.backlog import Backlog
from distwatch.observer.link.carrier import HANDSHAKE_WITHIN_S
from distwatch.observer.link.channel import LINK_ERRORS, Channel, LinkBroken, LinkRefused, join
from distwatch.observer.link.digest import Digest
from distwatch.observer.link.handshake import connect
from distwatch.observer.link.leaf_session import LOST_AFTER_S
from distwatch.observer.link.racks import RACK_NAME_MOST
from distwatch.observer.link.root import Root
from distwatch.observer.link.root_address import LinkMisconfigured, RootAddress, parse_place
from distwatch.state import events as ev
from distwatch.state.addresses import plain_address

SEND_EVERY_S = 0.25
SEND_MOST_S = 1.0
PAUSE_FIRST_S = 0.25
PAUSE_MOST_S = 5.0
DELIVER_WITHIN_S = 10.0
SIGN_EVERY_S = 1.0
BUSY_MOST_S = 30.0
SPARING_FROM_S = 0.5
"""A root that wants live values more rarely than this has very many of them."""
_SIGN_OF_LIFE = say.encode(say.Batch(after=0))
log = logging.getLogger("distwatch.observer")


class Leaf:
    """The connection to the root, which is renewed while the observer runs.

    Attributes:
        home: where the root of the run is.
        place: where it sends to: there, or to the root of its rack.
        linked: the root receives what is sent.
    """

    def __init__(
        self, observer: Observer, place: RootAddress, token: bytes, rack: str = ""
    ) -> None:
        """`rack`: the name of its rack, where it was given one."""
        self._observer = observer
        self.place = self.home = place
        self._token = token
        self._rack_name = rack
        self._rack: Root | None = None
        """It is the root of its rack."""
        self._unreachable = ""
        self._channel: Channel | None = None
        self._host = observer.recording.header.host
        self._backlog = Backlog(observer.folder, self._host)
        # Little, until the root asks for more.
        self._wanted = say.Seen(operations=OPERATIONS_KEPT)
        self._live_at = 0.0
        self._live_sent = 0
        self._said_at = 0.0
        self.linked = False
        self._why_unlinked = ""
        self._closing = asyncio.Event()
        self._moved, self._asked_again = asyncio.Event(), asyncio.Event()
        self._delivered = False
        self._task: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        # A record that overtakes an older one of its stream would hide that one from the root.
        self._in_order = asyncio.Lock()
        observer.judge.of_one_host = True
        observer.sinks.append(self._backlog.add_live)
        observer.record_sinks.append(self._backlog.add_record)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_linked())

    def redirect(self, place: RootAddress, token: bytes) -> None:
        """Changes the root's address; does nothing if it is the same."""
        if (place, token) == (self.home, self._token):
            return
        self.home, self._token = place, token
        self._go_to(place, f"the root is now at {place}")

    def _go_to(self, place: RootAddress, why: str) -> None:
        if place != self.place:
            self._take_leave(why)
        self.place = place
        self._moved.set()
        if self._channel is not None:
            self._channel.abort()

    async def retire(self) -> None:
        """Stops sending for good."""
        if self._task is not None:
            await end_tasks(self._task)
        await self._leave_rack()
        self._take_leave("this observer no longer sends to a root")
        self._observer.judge.of_one_host = False
        self._observer.sinks.remove(self._backlog.add_live)
        self._observer.record_sinks.remove(self._backlog.add_record)

    async def close(self) -> None:
        """Delivers what the root lacks, if the root can be reached soon, and ends."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=DELIVER_WITHIN_S)
            await end_tasks(self._task)
        await self._leave_rack()
        if not self._delivered:
            log.warning(
                "root %s did not receive every record; the rest are in this folder", self.place
            )

    async def _leave_rack(self) -> None:
        if self._rack is not None:
            rack, self._rack = self._rack, None
            self._backlog.digest = None
            await rack.close()

    async def join_viewer(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Shows a viewer here the whole run; False if it cannot, and then nothing was read.

        Args:
            first: the viewer's first frame, which was read already.
        """
        if not self.linked:
            return False
        try:
            channel = await self._connected("viewer")
        except LINK_ERRORS as error:
            log.warning("a viewer sees only this host: %s", error)
            return False
        await channel.send(first)
        await join(channel, reader, writer)
        return True

    # ---- the connection ------------------------------------------------------------------------

    async def _keep_linked(self) -> None:
        pause_s = PAUSE_FIRST_S
        while not self._delivered:
            self._moved.clear()
            why, refused = await self._link_once()
            if self._moved.is_set() or self._delivered:
                pause_s = PAUSE_FIRST_S
                continue
            if self.place != self.home:
                # Another root of its level takes it, or it becomes one: the root of the run decides.
                self._unreachable = str(self.place)
                self._go_to(self.home, f"the root of its rack was lost: {why}")
                self._moved.clear()
                await self._pause(PAUSE_FIRST_S)
                continue
            if refused and self._closing.is_set():
                return  # the root refuses it, so there is nothing to wait for
            if self.linked:
                pause_s = PAUSE_FIRST_S
            self._note(False, why)
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)

    async def _link_once(self) -> tuple[str, bool]:
        """Connects and sends for as long as that goes; why it ended, and whether the root refuses it."""
        try:
            channel = await self._connected("leaf")
            try:
                # It may have been redirected during the handshake.
                if not self._moved.is_set():
                    self._channel = channel
                    await self._serve(channel)
            finally:
                self._channel = None
                channel.abort()
        except asyncio.TimeoutError:
            return f"it has been silent for {LOST_AFTER_S + self._wanted.busy_s:.0f} s", False
        except EOFError:
            pass
        except OSError as error:
            return error.strerror or str(error), False
        except (LinkRefused, LinkBroken, LinkMisconfigured) as error:
            return str(error), True
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return str(error), True
        return "it ended the connection", False

    async def _pause(self, pause_s: float) -> None:
        """Waits for a random time: hosts that lost the root together must not all return at once."""
        if self._closing.is_set():
            await asyncio.sleep(PAUSE_FIRST_S)
            return
        await wait_for_any(self._closing, self._moved, within_s=pause_s * random.uniform(0.5, 1.0))

    async def _connected(self, kind: Literal["leaf", "viewer"]) -> Channel:
        hello = say.Hello(
            kind=kind,
            run_id=self._observer.folder.run_id,
            host=self._host,
            node=_node(self._observer.recording.header.boot_id),
            rack=self._rack_name[:RACK_NAME_MOST],
            place=str(self._rack.place) if self._rack is not None else "",
            unreachable=self._unreachable,
        )
        return await connect(self.place, self._token, hello)

    async def _serve(self, channel: Channel) -> None:
        first = say.decode_from_root(await asyncio.wait_for(channel.receive(), HANDSHAKE_WITHIN_S))
        if isinstance(first, say.Refused):
            raise LinkRefused(f"it refuses: {first.why[:300]}")
        if not isinstance(first, say.Resume):
            raise LinkBroken("its first message does not say where to resume")
        self._backlog.resume(first.number, first.cursors)
        self._live_sent, self._wanted = 0, say.Seen(operations=OPERATIONS_KEPT)
        self._note(True, "")
        both = [
            asyncio.create_task(self._send(channel)),
            asyncio.create_task(self._receive(channel)),
        ]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*both)
        for one in done:
            one.result()

    async def _send(self, channel: Channel) -> None:
        is_behind = True
        while True:
            closing = self._closing.is_set()
            self._asked_again.clear()
            await self._send_all(channel)
            if is_behind:
                is_behind = False
                await channel.send(say.encode(say.CaughtUp()))
            if closing and not self._backlog.behind:
                await channel.send(say.encode(say.Bye(after=self._backlog.after)))
                # The answer ends this connection, or asks again for what the root's disk has refused.
                await self._asked_again.wait()
                continue
            every_s = max(SEND_EVERY_S, min(SEND_MOST_S, self._wanted.send_every_s))
            await wait_for_any(self._closing, within_s=every_s)

    async def _send_all(self, channel: Channel) -> None:
        """Sends what the root lacks now, or just a sign of life."""
        async with self._in_order:
            while self._backlog.behind:
                handed = self._backlog.begin_history()
                reading = asyncio.create_task(asyncio.to_thread(self._backlog.read_history, handed))
                while not reading.done():
                    await asyncio.wait([reading], timeout=SIGN_EVERY_S)
                    await channel.send(_SIGN_OF_LIFE)
                for batch in self._backlog.take_history(reading.result()):
                    await channel.send(say.encode(batch))
            now = time.monotonic()
            live = now >= self._live_at and self._wanted.live >= self._live_sent
            if live:
                self._live_at = now + self._wanted.live_every_s
                self._live_sent += 1
            # Of a rack's ranks the root of the run has enough with the newest, until it has a look taken.
            fewest = OPERATIONS_KEPT if self._rack is None else 1
            operations = max(fewest, self._wanted.operations)
            sparing = self._wanted.live_every_s > SPARING_FROM_S
            batches = self._backlog.take_live_batch(
                live=live, operations=operations, sparing=sparing
            )
            if live or (not batches and now - self._said_at >= SIGN_EVERY_S):
                last = batches.pop() if batches else say.Batch(after=0)
                batches.append(msgspec.structs.replace(last, live=self._live_sent if live else 0))
            for batch in batches:
                await channel.send(say.encode(batch))
                self._said_at = now

    async def _receive(self, channel: Channel) -> None:
        while True:
            busy_s = min(BUSY_MOST_S, self._wanted.busy_s)
            body = await channel.receive_within(LOST_AFTER_S + busy_s)
            message = say.decode_from_root(body)
            if isinstance(message, say.Resume):
                async with self._in_order:
                    self._backlog.resume(message.number, message.cursors)
                self._asked_again.set()
            elif isinstance(message, say.Seen):
                self._wanted = message
            elif isinstance(message, say.Look):
                task = asyncio.create_task(self._look(channel, message))
                self._looks.add(task)
                task.add_done_callback(self._looks.discard)
            elif isinstance(message, say.End):
                self._end(message)
            elif isinstance(message, say.Serve):
                await self._serve_rack(channel, message.address)
            elif isinstance(message, say.Move):
                self._unreachable = ""
                self._go_to(parse_place(message.place), f"the root of its rack is {message.place}")
            elif isinstance(message, say.Bye):
                self._delivered = True
                return
            elif isinstance(message, say.Refused):
                raise LinkRefused(f"it refuses: {message.why[:300]}")

    async def _look(self, channel: Channel, look: say.Look) -> None:
        digest = self._backlog.digest or Digest()
        with digest.looking(look.suspects, whole=look.ask), contextlib.suppress(OSError):
            await self._observer.look(look.why, ask=look.ask)
            await self._send_all(channel)
            await channel.send(say.encode(say.Looked(number=look.number)))

    def _end(self, order: say.End) -> None:
        """Ends a process of this host, or asks the host of this rack where it is."""
        held = self._observer.state.processes.get(order.process)
        if held is not None and held.host != self._host and self._rack is not None:
            self._rack.pass_on(held.host, order)
        else:
            self._observer.responses.obey(order.process, order.incident, order.code, order.summary)

    async def _serve_rack(self, channel: Channel, address: str) -> None:
        """Becomes the root of its rack, and comes back to the root of the run as one."""
        if self._rack is not None:
            return
        rack = Root(self._observer, self._token, of_rack=True)
        try:
            await rack.start(_one_of_ours(address), 0)
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", "") or str(error)
            why = f"cannot listen at {address[:80]!r}: {told}"
            await channel.send(say.encode(say.Unable(why=why)))
            return
        self._rack, self._backlog.digest = rack, Digest()
        self._go_to(self.home, "")

    def _take_leave(self, why: str) -> None:
        """Records that the link to the previous root has ended for good."""
        self.linked, self._why_unlinked = False, ""
        self._observer.recording.record(
            ev.LinkChanged(host=self._host, peer=str(self.place), linked=False, ended=True, why=why)
        )

    def _note(self, linked: bool, why: str) -> None:
        """Records each change once, and each new reason why the root cannot be reached."""
        if linked == self.linked and (linked or why == self._why_unlinked):
            return
        self.linked, self._why_unlinked = linked, why
        log.info("root %s: %s", self.place, "linked" if linked else why)
        if not self._closing.is_set():
            self._observer.recording.record(
                ev.LinkChanged(host=self._host, peer=str(self.place), linked=linked, why=why)
            )


def _one_of_ours(address: str) -> str:
    """The address; raises ValueError where it is none, or stands for all of this host's."""
    if plain_address(address).is_unspecified:
        raise ValueError("it stands for every address of this host")
    return address


def _node(boot_id: str) -> str:
    """An id of this machine, or of this container."""
    try:
        return f"{boot_id}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return boot_id
