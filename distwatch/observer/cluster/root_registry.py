"""Where the roots of a cluster's runs are: a small private file in the root of a node's run folders.

With it a viewer on any node reaches the whole run, also while the cluster itself answers nobody.
"""

from __future__ import annotations

import os
import time

import msgspec

from distwatch.foreign_files import read_private, write_whole
from distwatch.runfolder import folder_name

RAY, HOSTS = "ray", "hosts"
SCHEME = "ray://"
"""Begins the address of a Ray cluster."""
CARDS_FILE = "links.json"
KEPT_NS = 7 * 86_400 * 10**9
"""How long a card is kept after its run has ended, or after its cluster was last heard of."""
MOST_CARDS = 600
"""So many fit into what is read of the file, whatever their names."""
_LIMIT = 1 << 20
_HOUR_NS = 3600 * 10**9


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The way to one run's root.

    Attributes:
        cluster: the address that names the cluster.
        kind: what the cluster is: RAY, or HOSTS that were named one by one; '' is not said.
        host: the host on which the root's folder is.
        since_ns: when the root was first asked for, by that host's wall clock.
        ended: the root has ended, with its run; what it kept is on that host.
        heard_ns: the hour in which its cluster last told this node of it, by this node's clock.
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
    """The cards of this node by the names of the runs; none where the file is not safe to use."""
    oldest = time.time_ns() - KEPT_NS
    return {name: card for name, card in _read(root).items() if card.heard_ns > oldest}


def write_cards(root: str, cluster: str, cards: dict[str, Card]) -> None:
    """Replaces what the file says of one cluster's runs; raises OSError where it cannot."""
    before = _read(root)
    # To the hour, so that a cluster of which nothing is new does not have it written every second.
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
    """So many of them; the oldest that have ended go first."""
    if len(cards) <= most:
        return cards
    named = sorted(cards, key=lambda name: (not cards[name].ended, cards[name].since_ns))
    kept = set(named[-most:])
    return {name: card for name, card in cards.items() if name in kept}


def named_soundly(cards: dict[str, Card]) -> dict[str, Card]:
    """Those whose names lead to a folder within a root: they come from other processes and hosts."""
    return {name: card for name, card in cards.items() if folder_name(name) == name}


def _read(root: str) -> dict[str, Card]:
    try:
        # Who could write it could send our viewers, and the token, to a place of their own.
        content = read_private(os.path.join(root, CARDS_FILE), _LIMIT)
        return named_soundly(msgspec.json.decode(content, type=dict[str, Card]))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
