"""Runs of other nodes, as the cards of this node or their Ray cluster know them."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec

from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.observer.background import end_tasks
from distwatch.observer.cluster.ray_question import ask_cluster
from distwatch.observer.cluster.root_registry import (
    RAY,
    SCHEME,
    Card,
    named_soundly,
    read_cards,
)
from distwatch.observer.link.channel import (
    HANDSHAKE_WITHIN_S,
    LinkBroken,
    LinkRefused,
    introduce,
)
from distwatch.observer.link.messages import Hello
from distwatch.observer.link.root_address import LinkMisconfigured, parse_place
from distwatch.observer.link.viewers import join
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.run_source import SourceLost
from distwatch.observer.targets.runs import is_named
from distwatch.observer.targets.target import Target
from distwatch.runfolder import RunFolder, host_name
from distwatch.state.model import RunState

ANSWERS_WITHIN_S = 3.0


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


def remote_run(word: str, root: str) -> RemoteRun | None:
    """A run that this machine knows by its card alone, or of the cluster that `ray://…` names.

    Args:
        word: `ray://`, `ray://host:port`, either with `/RUN` after it; or what `is_named` takes.

    Raises:
        NoSuchTarget: the cluster has no such run.
        ClusterSilent: it does not answer, and no card of it is here.
        SourceLost: neither it nor any root that the cards name answers.
    """
    cards = read_cards(root)
    if word.startswith(SCHEME):
        address, _, wanted = word.removeprefix(SCHEME).partition("/")
        name, card = _in_cluster("" if address == "auto" else address, wanted, cards)
        return RemoteRun(name, card, root)
    named = _named(cards, word)
    if not named:
        return None
    name, card = (len(named) > 1 and _answering(named, [])) or named[0]
    return RemoteRun(name, card, root)


def _in_cluster(address: str, wanted: str, cards: dict[str, Card]) -> tuple[str, Card]:
    known = {n: c for n, c in cards.items() if c.kind == RAY and address in ("", c.cluster)}
    tried: list[str] = []
    named = _named(known, wanted)
    if found := _answering(named, tried):
        return found
    if named and not tried:
        return named[0]  # all have ended
    try:
        told = ask_cluster("cards", f"{SCHEME}{address}" if address else "")["cards"]
    except DistwatchError as error:
        if not tried:
            raise
        raise SourceLost(f"{'; '.join(tried)}; {error}", advice=error.advice) from error
    known = named_soundly(msgspec.convert(told, dict[str, Card]))
    named = _named(known, wanted)
    # What has failed just now need not be waited for again.
    fresh = [(name, card) for name, card in named if _silence(name, card) not in tried]
    if found := _answering(fresh, tried) or next(iter(named), None):
        return found
    raise NoSuchTarget(
        f"no run {wanted} is known there" if wanted else "no run is known there",
        advice=f"Known are: {', '.join(sorted(known)[-8:])}."
        if known
        else "A run is known once one of its ranks has started with distwatch on.",
    )


def _named(cards: dict[str, Card], wanted: str) -> list[tuple[str, Card]]:
    """Those that are meant; the newest that has not ended first."""
    named = [(name, card) for name, card in cards.items() if not wanted or is_named(name, wanted)]
    return sorted(named, key=lambda one: (one[1].ended, -one[1].since_ns))


def _answering(named: list[tuple[str, Card]], tried: list[str]) -> tuple[str, Card] | None:
    """The first whose root answers now; `tried` gets what was said of the others.

    A cluster that was lost never said that its runs have ended.
    """
    for name, card in named:
        if card.ended:
            continue
        if _answers(card):
            return name, card
        tried.append(_silence(name, card))
    return None


def _answers(card: Card) -> bool:
    """Whether an observer at work is there: the root of a link speaks first."""
    try:
        place = parse_place(card.place)
        with socket.create_connection((place.host, place.port), ANSWERS_WITHIN_S) as connection:
            return bool(connection.recv(1))
    except (OSError, LinkMisconfigured):
        return False


def _silence(name: str, card: Card) -> str:
    return f"the root of {name} on {card.host} ({card.place}) does not answer"


class LinkedRun(LiveRun):
    """A run through its root's port on another host."""

    def __init__(self, name: str, card: Card, root: str) -> None:
        super().__init__(RunFolder(os.path.join(root, name)), f"root on {card.host}, {card.place}")
        self.card = card
        self._passing: asyncio.Task[None] | None = None

    async def look(self) -> RunState:
        """All that the root tells now."""
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
