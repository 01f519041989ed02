"""Gives an observer its part among several hosts, as its environment says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping

from distwatch.observer.daemon import Observer
from distwatch.observer.link.leaf import Leaf
from distwatch.observer.link.place import (
    LinkMisconfigured,
    Place,
    address_here,
    read_token,
    root_place,
)
from distwatch.observer.link.root import Root
from distwatch.state import events as ev

LISTEN_AGAIN_S = 2.0
log = logging.getLogger("distwatch.observer")


class Link:
    """Root or leaf or neither, once it is known."""

    def __init__(self, observer: Observer, environ: Mapping[str, str]) -> None:
        self._observer = observer
        self._environ = environ
        self._root: Root | None = None
        self._task: asyncio.Task[None] | None = None
        self.leaf: Leaf | None = None

    def start(self) -> None:
        """Finds out, in its own time, which part this observer has."""
        self._task = asyncio.create_task(self._begin())

    async def join_viewer(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """As `Leaf.join_viewer`."""
        return self.leaf is not None and await self.leaf.join_viewer(first, reader, writer)

    async def close(self) -> None:
        """Delivers what is to be delivered, and takes leave."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.leaf is not None:
            await self.leaf.close()
        if self._root is not None:
            await self._root.close()

    async def _begin(self) -> None:
        try:
            place = root_place(
                self._environ.get("DISTWATCH_OBSERVER", ""), self._environ.get("MASTER_ADDR", "")
            )
            if place is None:
                return
            token = read_token(self._environ, os.path.dirname(self._observer.folder.path))
        except LinkMisconfigured as error:
            self._say(f"{error} This observer sees its own host alone.")
            return
        address = None
        with contextlib.suppress(OSError):
            # A name that does not resolve is not ours; the leaf tries it again and says so.
            address = await address_here(place)
        if address is None:
            self.leaf = Leaf(self._observer, place, token)
            self.leaf.start()
        else:
            self._root = Root(self._observer, token)
            await self._listen(self._root, address, place)

    async def _listen(self, root: Root, address: str, place: Place) -> None:
        told = ""
        while True:
            try:
                await root.start(address, place.port)
                log.info("root of the run, at %s port %d", address, place.port)
                if told:
                    self._say(f"since then leaves are heard at {place}")
                return
            except OSError as error:
                # An earlier run's root holds it until it has ended.
                why = f"leaves are not heard at {place}: {error.strerror or error}"
                if why != told:
                    told = why
                    self._say(why)
            await asyncio.sleep(LISTEN_AGAIN_S)

    def _say(self, why: str) -> None:
        log.warning("%s", why)
        host = self._observer.recording.header.host
        self._observer.recording.record(ev.NotObserved(host=host, what="link", why=why))
