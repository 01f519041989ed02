"""A run of other nodes, looked at through its root: where the cards of this node or its cluster say."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec

from distwatch.errors import NoSuchTarget
from distwatch.observer.background import end_tasks
from distwatch.observer.cluster.cards import Card, read_cards
from distwatch.observer.cluster.ray_question import SCHEME, ask_cluster
from distwatch.observer.link.channel import (
    HANDSHAKE_WITHIN_S,
    LinkBroken,
    LinkRefused,
    introduce,
)
from distwatch.observer.link.messages import Hello
from distwatch.observer.link.place import parse_place
from distwatch.observer.link.viewers import join
from distwatch.observer.live import LiveRun, SourceLost
from distwatch.observer.runs import run_folders
from distwatch.runfolder import RunFolder, host_name, name_of
from distwatch.state.model import RunState


def find_linked(target: str, root: str) -> LinkedRun | None:
    """A run that this machine knows by its card alone, or of the cluster that `ray://…` names.

    Args:
        target: `ray://`, `ray://host:port`, either with `/RUN` after it; or a run's name, or
            `ray-<job id>`.

    Raises:
        NoSuchTarget: the cluster has no such run.
        ClusterSilent: it does not answer, and no card of it is here.
    """
    if target.startswith(SCHEME):
        address, _, wanted = target.removeprefix(SCHEME).partition("/")
        return _of_cluster("" if address == "auto" else address, wanted, root)
    if any(_is_named(folder.run_id, target) for folder in run_folders(root)):
        return None
    return _newest(read_cards(root), target, root)


def _of_cluster(address: str, wanted: str, root: str) -> LinkedRun:
    cards = {name: card for name, card in read_cards(root).items() if address in ("", card.cluster)}
    found = _newest(cards, wanted, root)
    if found is None:
        cards = msgspec.convert(ask_cluster("cards", address)["cards"], dict[str, Card])
        found = _newest(cards, wanted, root)
    if found is None:
        raise NoSuchTarget(
            f"no run {wanted} is known there" if wanted else "no run is known there",
            advice=f"Known are: {', '.join(sorted(cards)[-8:])}."
            if cards
            else "A run is known once one of its ranks has started with distwatch on.",
        )
    return found


def _newest(cards: dict[str, Card], wanted: str, root: str) -> LinkedRun | None:
    named = [name for name in cards if not wanted or _is_named(name, wanted)]
    if not named:
        return None
    newest = max(named, key=lambda name: (not cards[name].ended, cards[name].since_ns))
    return LinkedRun(newest, cards[newest], root)


def _is_named(run_id: str, wanted: str) -> bool:
    """The run's id, its name, or `ray-<job id>`: the cluster's start in the id need not be known."""
    return wanted in (run_id, name_of(run_id)) or (
        wanted.startswith("ray-") and run_id.startswith(f"{wanted}-")
    )


class LinkedRun(LiveRun):
    """A run through its root's port on another host."""

    def __init__(self, name: str, card: Card, root: str) -> None:
        super().__init__(RunFolder(os.path.join(root, name)), f"root on {card.host}, {card.place}")
        self.card = card
        self._passing: asyncio.Task[None] | None = None

    async def look(self) -> RunState:
        """All that the root tells now."""
        try:
            await self.open()
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
                advice=f"What was kept of it is on {self.card.host}: `distwatch report {self.run_id}` there.",
            )
        place = parse_place(self.card.place)
        hello = Hello(kind="viewer", run_id=self.run_id, host=host_name(), node="")
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(place.host, place.port), HANDSHAKE_WITHIN_S
            )
            try:
                channel = await asyncio.wait_for(
                    introduce(reader, writer, self.card.token.encode(), hello), HANDSHAKE_WITHIN_S
                )
            except BaseException:
                writer.transport.abort()
                raise
        except (OSError, EOFError, asyncio.TimeoutError, LinkRefused, LinkBroken) as error:
            raise SourceLost(
                f"the root of {self.run_id} on {self.card.host} ({place}) does not answer: "
                f"{error or type(error).__name__}",
                advice=f"If the run has ended, `distwatch report {self.run_id}` on that host reads it.",
            ) from error
        ours, theirs = socket.socketpair()
        self._passing = asyncio.create_task(
            join(channel, *await asyncio.open_unix_connection(sock=theirs))
        )
        return await asyncio.open_unix_connection(sock=ours)
