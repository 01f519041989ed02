"""Finds a run of other nodes by this node's cards, else through its Ray cluster."""

from __future__ import annotations

import socket

import msgspec

from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.observer.cluster.ray_question import ClusterSilent, ask_cluster
from distwatch.observer.cluster.root_registry import (
    RAY,
    SCHEME,
    Card,
    named_soundly,
    read_cards,
)
from distwatch.observer.link.root_address import LinkMisconfigured, parse_place
from distwatch.runfolder import is_named

ANSWERS_WITHIN_S = 3.0


def find_root(word: str, root: str) -> tuple[str, Card] | None:
    """The name and the card of the run that a word means; None: no card has that name.

    Args:
        word: `ray://`, `ray://host:port`, either with `/RUN` after it; or what `is_named` takes.

    Raises:
        NoSuchTarget: the cluster has no such run.
        ClusterSilent: neither the cluster nor any root in the cards answers.
    """
    cards = read_cards(root)
    if word.startswith(SCHEME):
        address, _, wanted = word.removeprefix(SCHEME).partition("/")
        return _in_cluster("" if address == "auto" else address, wanted, cards)
    named = _named(cards, word)
    if len(named) > 1 and (found := _answering(named, [])):
        return found
    return named[0] if named else None


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
        raise ClusterSilent(f"{'; '.join(tried)}; {error}", advice=error.advice) from error
    known = named_soundly(msgspec.convert(told, dict[str, Card]))
    named = _named(known, wanted)
    # Do not wait again for a root that has just failed to answer.
    fresh = [(name, card) for name, card in named if _silence(name, card) not in tried]
    if found := _answering(fresh, tried) or next(iter(named), None):
        return found
    raise NoSuchTarget(
        f"no run {wanted} is known there" if wanted else "no run is known there",
        advice=f"Known runs: {', '.join(sorted(known)[-8:])}."
        if known
        else "A run is known once one of its ranks has started with distwatch on.",
    )


def _named(cards: dict[str, Card], wanted: str) -> list[tuple[str, Card]]:
    """The matching cards; the newest that has not ended comes first."""
    named = [(name, card) for name, card in cards.items() if not wanted or is_named(name, wanted)]
    return sorted(named, key=lambda one: (one[1].ended, -one[1].since_ns))


def _answering(named: list[tuple[str, Card]], tried: list[str]) -> tuple[str, Card] | None:
    """The first run whose root answers now; `tried` collects a sentence about each other one.

    A card of a lost cluster never says that its run has ended.
    """
    for name, card in named:
        if card.ended:
            continue
        if _answers(card):
            return name, card
        tried.append(_silence(name, card))
    return None


def _answers(card: Card) -> bool:
    """Whether a working observer is there: the root of a link sends first."""
    try:
        place = parse_place(card.place)
        with socket.create_connection((place.host, place.port), ANSWERS_WITHIN_S) as connection:
            return bool(connection.recv(1))
    except (OSError, LinkMisconfigured):
        return False


def _silence(name: str, card: Card) -> str:
    return f"the root of {name} on {card.host} ({card.place}) does not answer"
