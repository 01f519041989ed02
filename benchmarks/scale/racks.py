"""Synthetic roots of racks: the real leaf's code with its digest, over synthetic nodes of this process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

from distwatch.observer.link.digest import Digest
from distwatch.observer.link.leaf import Leaf
from distwatch.observer.link.root_address import RootAddress
from scale.nodes import Judged, Node

ELSEWHERE = RootAddress("127.0.0.1", 1)
"""Where a rack's root would listen: its nodes are in its own process."""


class Rack:
    """Stands for the observer of a rack's root: what `Leaf` asks of an `Observer`, and nothing else."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self.folder = nodes[0].folder
        self.recording = nodes[0].recording
        self.sinks: list = []
        self.record_sinks: list = []
        self.judge = Judged()
        self.leaf: Leaf | None = None
        for node in nodes:
            node.sinks, node.record_sinks = self.sinks, self.record_sinks

    def link(self, place: RootAddress, token: bytes) -> None:
        """Connects as the root of a rack does."""
        leaf = Leaf(self, place, token)  # type: ignore[arg-type]
        leaf._rack = SimpleNamespace(place=ELSEWHERE, close=_closed)  # type: ignore[assignment]
        leaf._backlog.digest = Digest()
        for node in self._nodes:
            node.leaf = leaf
        self.leaf = leaf
        leaf.start()

    async def look(self, why: str, *, ask: bool) -> None:
        """As `Observer.look`: the rack's root asks its hosts."""
        await asyncio.gather(*(node.look(why, ask=ask) for node in self._nodes))


async def _closed() -> None:
    """Nobody listens."""


def grouped(nodes: Sequence[Node], racks: int) -> Iterator[Rack]:
    """The nodes in so many racks, as many in each."""
    size = -(-len(nodes) // racks)
    for first in itertools.count(0, size):
        if not (members := nodes[first : first + size]):
            return
        yield Rack(members)
