"""Which rank waits for which: one graph over the ranks, with the culprits at its ends."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Literal

import msgspec

Kind = Literal["collective", "p2p", "group", "init", "lock", "socket"]


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One rank waits for another, in one call."""

    waiter: int
    awaited: int
    kind: Kind
    what: str
    """`all_reduce #5 of default_pg`, `recv #3 from rank 2`."""
    waited_s: float = 0.0
    overdue: bool = False
    pg_name: str = ""
    seq: int = -1


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """How long a rank has been in a wait."""

    waited_s: float
    overdue: bool = False


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Many edges at once: each of the waiters waits for each of the awaited ranks, in one call."""

    kind: Kind
    what: str
    waiters: dict[int, Wait]
    awaited: tuple[int, ...]
    pg_name: str = ""
    seq: int = -1
    is_joint: bool = False
    """In a group with members of other worlds, which is judged as a world of its own."""

    @property
    def overdue(self) -> bool:
        return any(wait.overdue for wait in self.waiters.values())

    def edge(self, waiter: int, awaited: int) -> Edge:
        """One of them."""
        wait = self.waiters[waiter]
        return Edge(
            waiter=waiter,
            awaited=awaited,
            kind=self.kind,
            what=self.what,
            waited_s=wait.waited_s,
            overdue=wait.overdue,
            pg_name=self.pg_name,
            seq=self.seq,
        )


class WaitGraph:
    """Who waits for whom in a job, and what follows from that.

    Ten thousand ranks that wait for one, or fifty that wait for ten thousand unseen ranks, are one
    bundle: nothing here enumerates their pairs.

    Args:
        abroad: ranks that wait for processes of other worlds.
    """

    def __init__(self, bundles: Iterable[Bundle], abroad: Iterable[int] = ()) -> None:
        self._abroad = frozenset(abroad)
        self._bundles = [bundle for bundle in bundles if bundle.waiters and bundle.awaited]
        self._out: dict[int, list[Bundle]] = {}
        self._in: dict[int, list[Bundle]] = {}
        for bundle in self._bundles:
            for waiter in bundle.waiters:
                self._out.setdefault(waiter, []).append(bundle)
            for awaited in bundle.awaited:
                self._in.setdefault(awaited, []).append(bundle)

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """All edges, many at once."""
        return tuple(self._bundles)

    def waits(self, rank: int) -> list[Edge]:
        """What a rank waits for; empty where no rank blocks it."""
        return [b.edge(rank, awaited) for b in self._out.get(rank, ()) for awaited in b.awaited]

    def is_waiting(self, rank: int) -> bool:
        """Whether another rank blocks it, or a process of another world."""
        return rank in self._out or rank in self._abroad

    def is_overdue(self, rank: int) -> bool:
        """Whether another rank has waited for it longer than that may take, in a group of this world alone."""
        return any(bundle.overdue and not bundle.is_joint for bundle in self._in.get(rank, ()))

    def longest_s(self, kind: Kind) -> float:
        """The longest wait of that kind; 0 where there is none."""
        waits = (w.waited_s for b in self._bundles if b.kind == kind for w in b.waiters.values())
        return max(waits, default=0.0)

    def behind(self, ranks: Iterable[int]) -> set[int]:
        """The ranks that wait for one of these, directly or through others."""
        first = set(ranks)
        reached, todo, done = set(first), list(first), set[int]()
        while todo:
            for bundle in self._in.get(todo.pop(), ()):
                if id(bundle) not in done:
                    done.add(id(bundle))
                    more = bundle.waiters.keys() - reached
                    reached |= more
                    todo.extend(more)
        return reached - first

    def roots(self) -> set[int]:
        """Ranks that are awaited and wait for nobody."""
        return self._in.keys() - self._out.keys() - self._abroad

    def awaited_by(self, rank: int) -> list[Edge]:
        """The waits that this rank could end, the longest first."""
        found = [b.edge(waiter, rank) for b in self._in.get(rank, ()) for waiter in b.waiters]
        return sorted(found, key=lambda edge: -edge.waited_s)

    def cycles(self, seen: Set[int] | None = None) -> list[tuple[Edge, ...]]:
        """Closed chains of waits that nobody outside could end, each once, shortest first.

        A chain starts at its lowest rank; of several edges between two ranks only the longest wait
        counts.

        Args:
            seen: what other ranks could end is not known, and a closed chain is closed without them.
        """
        found: dict[frozenset[int], tuple[Edge, ...]] = {}
        free = self.roots() if seen is None else self.roots() & seen
        stuck = self._out.keys() - self.behind(free | self._abroad) - self._abroad
        for start in sorted(stuck):
            chain = self._shortest_chain(start, stuck)
            if chain:
                found.setdefault(frozenset(edge.waiter for edge in chain), chain)
        chains = sorted(found.values(), key=lambda chain: (len(chain), chain[0].waiter))
        # A cycle through the ranks of a shorter cycle says nothing new.
        kept: list[tuple[Edge, ...]] = []
        for chain in chains:
            members = {edge.waiter for edge in chain}
            if not any(members & {edge.waiter for edge in shorter} for shorter in kept):
                kept.append(chain)
        return kept

    def _shortest_chain(self, start: int, within: set[int]) -> tuple[Edge, ...]:
        """From `start` back to it, breadth first; () where no chain returns."""
        came: dict[int, Edge] = {}
        todo = [start]
        while todo:
            following: list[int] = []
            for rank in todo:
                for edge in sorted(self.waits(rank), key=lambda e: (-e.waited_s, e.awaited)):
                    if edge.awaited == start:
                        return _chain(came, start, edge)
                    if edge.awaited in within and edge.awaited not in came:
                        came[edge.awaited] = edge
                        following.append(edge.awaited)
            todo = following
        return ()


def _chain(came: dict[int, Edge], start: int, last: Edge) -> tuple[Edge, ...]:
    edges = [last]
    while edges[0].waiter != start:
        edges.insert(0, came[edges[0].waiter])
    return tuple(edges)
