"""The root's side: takes the leaves' records into its own folder and state, and asks for looks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from distwatch.observer.background import end_tasks
from distwatch.observer.daemon import Observer
from distwatch.observer.link import messages as say
from distwatch.observer.link.carrier import HANDSHAKE_WITHIN_S, Listener
from distwatch.observer.link.channel import Channel, LinkBroken, LinkRefused, join
from distwatch.observer.link.handshake import accept
from distwatch.observer.link.hearings import note_heard
from distwatch.observer.link.leaf_session import LOST_AFTER_S, LeafSession
from distwatch.observer.link.mirror import Mirror, is_host_name, raise_file_limit
from distwatch.observer.link.racks import Grouping
from distwatch.observer.link.root_address import RootAddress
from distwatch.observer.link.turns import Turns
from distwatch.runfolder import name_of
from distwatch.socket_path import within_limit
from distwatch.state import events as ev

REJOIN_WITHIN_S = 60.0
"""How long the root outlives its own ranks, waiting for a lost leaf."""
REGROUP_AFTER_S = 0.5
REASSURE_EVERY_S = 1.0
REFUSED_KEPT = 64
log = logging.getLogger("distwatch.observer")


class Root:
    """Listens for leaves, and for viewers of other hosts, while the observer runs.

    Attributes:
        place: where it listens, once it does.
        leaves: those that are connected, by host.
        turns: in which their messages are taken.
    """

    def __init__(self, observer: Observer, token: bytes, *, of_rack: bool = False) -> None:
        """`of_rack`: the observer passes on what it gets, to the root of the run."""
        self._observer = observer
        self.token = token
        self._grouping = None if of_rack else Grouping()
        self.place: RootAddress | None = None
        self._host = observer.recording.header.host
        raise_file_limit()
        self._mirror = Mirror(observer.folder)
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.leaves: dict[str, LeafSession] = {}
        self.turns = Turns()
        self._lost: dict[str, float] = {}
        self._refused: set[tuple[str, str]] = set()
        """Addresses and the reasons why they were refused, as far as they were said."""
        self._looks = 0
        self._regroups: asyncio.TimerHandle | None = None
        self._begin_anew()

    async def start(self, address: str, port: int) -> None:
        """Starts listening; port 0 is any. Raises OSError where the address is not available."""
        listener = Listener(self.token, self._welcome, self._refuse)
        self.place = listener.start(address, port)
        self._listener = listener
        self._observer.others = self
        reassuring = asyncio.create_task(self._reassure())
        self._tasks.add(reassuring)

    async def close(self) -> None:
        """Disconnects everybody; everything received is on disk."""
        if self._listener is None:
            return
        self._observer.others = None
        note_heard(self._observer, self._host, None)
        if self._regroups is not None:
            self._regroups.cancel()
        await end_tasks(*self._tasks)
        await self._listener.close()
        with contextlib.suppress(OSError):
            self._mirror.flush()
        self._mirror.close()

    # ---- what the observer asks ----------------------------------------------------------------

    def holds_on(self) -> bool:
        """Whether a leaf is connected, or may soon come back."""
        # Who has lost the root of its rack comes back to the root of the run.
        lost = self._lost.values() if self._grouping is not None else ()
        now = time.monotonic()
        return bool(self.leaves) or any(now - since < REJOIN_WITHIN_S for since in lost)

    def ask_looks(self, why: str, *, ask: bool = False) -> list[asyncio.Future[None]]:
        """Asks every leaf for a look; each future is done when the leaf's results have arrived."""
        self._looks += 1
        look = say.Look(
            number=self._looks, why=why[:400], ask=ask, suspects=self._observer.judge.suspects()
        )
        return [leaf.ask(look) for leaf in self.leaves.values()]

    def ask_to_end(self, order: ev.RankAborted) -> None:
        """Asks the leaf of that host to end a process of its own."""
        end = say.End(
            process=order.process, incident=order.incident, code=order.code, summary=order.summary
        )
        self.pass_on(order.host, end)

    def pass_on(self, host: str, message: say.Message) -> None:
        """Sends a message to that host, or to the root of its rack; to nobody where neither is here."""
        leaf = self.leaves.get(host)
        leaf = leaf or next((one for one in self.leaves.values() if host in one.hosts), None)
        if leaf is not None:
            leaf.send(message)

    async def _reassure(self) -> None:
        while True:
            await asyncio.sleep(REASSURE_EVERY_S)
            for leaf in self.leaves.values():
                leaf.reassure()

    def note_here(self) -> None:
        """What processes of this host do is known until now: of other hosts, that may be older."""
        note_heard(self._observer, self._host, time.monotonic_ns())

    # ---- connections ---------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Counts the leaves of an earlier root as lost until they connect again."""
        known = self._observer.state.hosts.get(self._host)
        for peer, link in (dict(known.links) if known else {}).items():
            if link.ended or not is_host_name(peer):
                continue
            if self._grouping is not None:
                self._lose(peer, "the root's observer was restarted", 0.0, link.goes_to)
            else:
                self._let_go(peer, "it sends to another root now")

    def _let_go(self, peer: str, why: str) -> None:
        self._observer.recording.record(
            ev.LinkChanged(host=self._host, peer=peer, linked=False, ended=True, why=why)
        )

    def _lose(self, peer: str, why: str, silent_s: float, goes_to: str = "") -> None:
        self._lost[peer] = time.monotonic()
        self._observer.recording.record(
            ev.LinkChanged(
                host=self._host,
                peer=peer,
                linked=False,
                why=why,
                silent_s=silent_s,
                goes_to=goes_to,
            )
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
                await self._serve_leaf(channel, hello, address)
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
        over = tracking.processes and not tracking.living() and hello.host not in self._lost
        if over and self._grouping is not None:
            return f"run {ours} has ended here"  # a later launch with that name is another run
        there = self.leaves.get(hello.host)
        if hello.host == self._host or (there is not None and there.node != hello.node):
            return f"two machines are named {hello.host}: give each its own host name"
        return ""

    async def _serve_leaf(self, channel: Channel, hello: say.Hello, address: str) -> None:
        # A broken connection may look intact on this side long after the leaf has reconnected.
        if (before := self.leaves.get(hello.host)) is not None:
            before.replace()
        leaf = LeafSession(self._observer, self._mirror, channel, hello, address, self)
        self.leaves[hello.host] = leaf
        self.note_host(hello.host)
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
            if leaf.goes_to:
                why = f"it went to the root of its rack, {leaf.goes_to}"
            if self.leaves.get(hello.host) is leaf:
                del self.leaves[hello.host]
                if leaf.ended:
                    self._let_go(hello.host, "its observer has ended")
                else:
                    silent_s = time.monotonic() - leaf.heard
                    self._lose(hello.host, why, silent_s, leaf.goes_to)

    def note_host(self, host: str) -> None:
        """A host has come, by itself or through the root of its rack: it is nowhere else."""
        self._lost.pop(host, None)
        for leaf in self.leaves.values():
            leaf.hosts.discard(host)

    def regroup_soon(self) -> None:
        """Puts hosts into racks, where there are very many of them or racks are named."""
        if self._grouping is not None and self._regroups is None:
            loop = asyncio.get_running_loop()
            self._regroups = loop.call_later(REGROUP_AFTER_S, self._regroup)

    def _regroup(self) -> None:
        self._regroups = None
        if self._grouping is not None:
            for step in self._grouping.next_steps(leaf.member for leaf in self.leaves.values()):
                self.leaves[step.host].take_step(step)

    def _refuse(self, address: str, reason: str) -> None:
        why = f"{address or 'a connection'} was refused: {reason}"
        log.warning("%s", why)
        known = {at for at, reason_then in self._refused if reason_then == reason}
        # One without an address is no news once somebody was named: it may be the same again.
        if address not in known and (address or not known) and len(self._refused) < REFUSED_KEPT:
            self._refused.add((address, reason))
            self._observer.recording.miss("link", why)
