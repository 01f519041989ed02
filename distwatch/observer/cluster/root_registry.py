"""Where the roots of a cluster's runs are: a small private file beside a node's run folders.

With it, a viewer on any node reaches the whole run, even while the cluster itself does not answer.
"""

from __future__ import annotations

import os
import time

import msgspec

from distwatch.foreign_files import read_private, write_whole
from distwatch.runfolder import folder_name

RAY, HOSTS = "ray", "hosts"
SCHEME = "ray://"
"""The prefix of a Ray cluster's address."""
CARDS_FILE = "links.json"
KEPT_NS = 7 * 86_400 * 10**9
"""How long a card is kept after its run has ended, or after its cluster was last heard of."""
MOST_CARDS = 600
"""This many fit into the size limit of the file, whatever their names."""
_LIMIT = 1 << 20
_HOUR_NS = 3600 * 10**9


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one run's root.

    Attributes:
        cluster: the address that names the cluster.
        kind: RAY, or HOSTS for hosts that were named one by one; '' is unknown.
        host: the host with the root's folder.
        since_ns: when the root was first requested, by that host's wall clock.
        ended: the root has ended, with its run; its record is on that host.
        heard_ns: the hour in which this node last got the card, by this node's clock.
    """

    cluster: str
    place: str
    token: str
    host: str
    since_ns: int
    kind: str = ""
    ended: bool = False
    heard_ns: int = 0


def read_cards(root: str) -> dict[str, Card]:
    """This node's cards by run name; none if the file is not safe to use."""
    oldest = time.time_ns() - KEPT_NS
    return {name: card for name, card in _read(root).items() if card.heard_ns > oldest}


def write_cards(root: str, cluster: str, cards: dict[str, Card]) -> None:
    """Replaces the cards of one cluster's runs in the file; raises OSError where that fails."""
    before = _read(root)
    # Rounded to the hour, so that a cluster without news does not cause a write every second.
    now = time.time_ns()
    heard = {
        name: msgspec.structs.replace(card, heard_ns=now - now % _HOUR_NS)
        for name, card in named_soundly(cards).items()
    }
    others = {
        name: card
        for name, card in before.items()
        if card.cluster != cluster and card.heard_ns > now - KEPT_NS
    }
    after = newest_cards({**others, **heard}, MOST_CARDS)
    if after == before:
        return
    write_whole(os.path.join(root, CARDS_FILE), msgspec.json.encode(after))


def newest_cards(cards: dict[str, Card], most: int) -> dict[str, Card]:
    """At most so many of the cards; the oldest ended ones are dropped first."""
    if len(cards) <= most:
        return cards
    named = sorted(cards, key=lambda name: (not cards[name].ended, cards[name].since_ns))
    kept = set(named[-most:])
    return {name: card for name, card in cards.items() if name in kept}


def named_soundly(cards: dict[str, Card]) -> dict[str, Card]:
    """The cards whose names are safe folder names: they come from other processes and hosts."""
    return {name: card for name, card in cards.items() if folder_name(name) == name}


def _read(root: str) -> dict[str, Card]:
    try:
        # Anyone who can write it could direct our viewers, and the token, to another place.
        content = read_private(os.path.join(root, CARDS_FILE), _LIMIT)
        return named_soundly(msgspec.json.decode(content, type=dict[str, Card]))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
