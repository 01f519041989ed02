"""Makes an observer root or leaf: by its environment, or by an order of `distwatch up`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distwatch.observer.background import end_tasks
from distwatch.observer.daemon import Observer
from distwatch.observer.link.orders import Order, Part
from distwatch.observer.link.root_address import (
    LinkMisconfigured,
    RootAddress,
    address_here,
    parse_place,
    read_token,
    require_length,
    root_place,
)

if TYPE_CHECKING:
    from distwatch.observer.link.leaf import Leaf
    from distwatch.observer.link.root import Root

LISTEN_AGAIN_S = 2.0
log = logging.getLogger("distwatch.observer")


class Link:
    """The observer as root, as leaf, or as neither.

    A setting in the environment holds as long as the observer runs; without one, `distwatch up` may
    order a part at any time, over the socket that only this user can reach.
    """

    def __init__(self, observer: Observer, environ: Mapping[str, str]) -> None:
        self._observer = observer
        self._environ = environ
        self._by_settings = environ.get("DISTWATCH_OBSERVER", "") not in ("", "auto", "off")
        self._task: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self.root: Root | None = None
        self.leaf: Leaf | None = None

    def start(self) -> None:
        """Starts to find out, in the background, which part the environment asks for."""
        self._task = asyncio.create_task(self._begin())

    async def join_viewer(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """As `Leaf.join_viewer`."""
        return self.leaf is not None and await self.leaf.join_viewer(first, reader, writer)

    async def obey(self, order: Order) -> Part:
        """Takes the ordered part; repeating an order changes nothing."""
        async with self._one_at_a_time:
            try:
                place, token = parse_place(order.place), require_length(order.token)
                if self._by_settings:
                    return self._part("its DISTWATCH_OBSERVER decides its part")
                if order.part == "root":
                    await self._be_root(place, token)
                else:
                    await self._be_leaf(place, token)
            except LinkMisconfigured as error:
                return self._part(str(error))
            except OSError as error:
                return self._part(f"{order.place}: {error.strerror or error}")
            return self._part()

    async def close(self) -> None:
        """Delivers what is left, and disconnects."""
        if self._task is not None:
            await end_tasks(self._task)
        if self.leaf is not None:
            await self.leaf.close()
        if self.root is not None:
            await self.root.close()

    # ---- by order ------------------------------------------------------------------------------

    def _part(self, why_not: str = "") -> Part:
        part = "root" if self.root else "leaf" if self.leaf else ""
        place = self.root.place if self.root else self.leaf.home if self.leaf else None
        return Part(part=part, place=str(place) if place else "", why_not=why_not)

    async def _be_root(self, place: RootAddress, token: bytes) -> None:
        if self.root is not None and self.root.token == token and _is_met(place, self.root.place):
            return
        await self._be_neither()
        root = _root(self._observer, token)
        await root.start(place.host, place.port)
        self.root = root
        log.info("told to be the root of the run, at %s", root.place)

    async def _be_leaf(self, place: RootAddress, token: bytes) -> None:
        if self.root is not None and self.root.place == place:
            return  # `up` sends the order to every host of the run, and so to its root
        if self.leaf is not None:
            self.leaf.redirect(place, token)
            return
        await self._be_neither()
        self.leaf = self._new_leaf(place, token)
        self.leaf.start()

    async def _be_neither(self) -> None:
        leaf, self.leaf = self.leaf, None
        root, self.root = self.root, None
        if leaf is not None:
            await leaf.retire()
        if root is not None:
            await root.close()

    # ---- by environment ------------------------------------------------------------------------

    async def _begin(self) -> None:
        try:
            place = root_place(
                self._environ.get("DISTWATCH_OBSERVER", ""), self._environ.get("MASTER_ADDR", "")
            )
            if place is None:
                return
            token = read_token(self._environ, os.path.dirname(self._observer.folder.path))
        except LinkMisconfigured as error:
            self._say(f"{error} This observer sees only its own host.")
            return
        address = None
        with contextlib.suppress(OSError):
            # A name that does not resolve is not ours; the leaf tries again and reports it.
            address = await address_here(place)
        if address is None:
            self.leaf = self._new_leaf(place, token)
            self.leaf.start()
        else:
            self.root = _root(self._observer, token)
            await self._listen(self.root, address, place)

    async def _listen(self, root: Root, address: str, place: RootAddress) -> None:
        told = ""
        while True:
            try:
                await root.start(address, place.port)
                log.info("root of the run, at %s port %d", address, place.port)
                if told:
                    self._say(f"leaves can connect at {place} now")
                return
            except OSError as error:
                # The root of an earlier run holds the port until it has ended.
                why = f"leaves cannot connect at {place}: {error.strerror or error}"
                if why != told:
                    told = why
                    self._say(why)
            await asyncio.sleep(LISTEN_AGAIN_S)

    def _new_leaf(self, place: RootAddress, token: bytes) -> Leaf:
        return _leaf(self._observer, place, token, self._environ.get("DISTWATCH_RACK", "").strip())

    def _say(self, why: str) -> None:
        log.warning("%s", why)
        self._observer.recording.miss("link", why)


# An observer of one host alone does without ZeroMQ: 4 MB, and a tenth of a second to import.
def _root(observer: Observer, token: bytes) -> Root:
    from distwatch.observer.link.root import Root

    return Root(observer, token)


def _leaf(observer: Observer, place: RootAddress, token: bytes, rack: str) -> Leaf:
    from distwatch.observer.link.leaf import Leaf

    return Leaf(observer, place, token, rack)


def _is_met(wanted: RootAddress, held: RootAddress | None) -> bool:
    return held is not None and wanted.host == held.host and wanted.port in (0, held.port)
