"""A run of other nodes, seen through the port of its root."""

from __future__ import annotations

import asyncio
import os
import socket

from distwatch.errors import NoSuchTarget
from distwatch.observer.background import end_tasks
from distwatch.observer.cluster.root_registry import Card
from distwatch.observer.link.channel import LINK_ERRORS, join
from distwatch.observer.link.messages import Hello
from distwatch.observer.link.root_address import parse_place
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.run_source import SourceLost
from distwatch.observer.targets.target import Target
from distwatch.runfolder import RunFolder, host_name
from distwatch.state.model import RunState


class RemoteRun(Target):
    """A run whose root is on another host."""

    def __init__(self, name: str, card: Card, root: str) -> None:
        self.name = name
        self._card = card
        self._root = root

    def folder(self) -> RunFolder:
        raise NoSuchTarget(
            f"{self.name} is recorded on {self._card.host}, not here", advice="Run this there."
        )

    def source(self) -> LinkedRun:
        return LinkedRun(self.name, self._card, self._root)

    def state(self) -> RunState:
        return asyncio.run(self.source().look())


class LinkedRun(LiveRun):
    """A live view of a run through its root's port on another host."""

    def __init__(self, name: str, card: Card, root: str) -> None:
        super().__init__(RunFolder(os.path.join(root, name)), f"root on {card.host}, {card.place}")
        self.card = card
        self._passing: asyncio.Task[None] | None = None

    async def look(self) -> RunState:
        """The state as the root has it now."""
        try:
            await self.open_whole()
            return self.state
        finally:
            await self.close()

    async def close(self) -> None:
        await super().close()
        if self._passing is not None:
            await end_tasks(self._passing)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.card.ended:
            raise NoSuchTarget(
                f"{self.run_id} has ended",
                advice=f"Its record is on {self.card.host}: run `distwatch report {self.run_id}` there.",
            )
        # Only who looks at another host needs ZeroMQ: 4 MB, and a tenth of a second to import.
        from distwatch.observer.link.handshake import connect

        place = parse_place(self.card.place)
        hello = Hello(kind="viewer", run_id=self.run_id, host=host_name(), node="")
        try:
            channel = await connect(place, self.card.token.encode(), hello)
        except LINK_ERRORS as error:
            raise SourceLost(
                f"the root of {self.run_id} on {self.card.host} ({place}) does not answer: "
                f"{error or type(error).__name__}",
                advice=f"If the run has ended, run `distwatch report {self.run_id}` on that host.",
            ) from error
        ours, theirs = socket.socketpair()
        self._passing = asyncio.create_task(
            join(channel, *await asyncio.open_unix_connection(sock=theirs))
        )
        return await asyncio.open_unix_connection(sock=ours)
