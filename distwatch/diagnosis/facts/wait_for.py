"""Which rank waits for which: one graph over the ranks, with the culprits at its ends."""

from __future__ import annotations

from collections.abc import Iterable, Set

from distwatch.diagnosis.facts.wait_circles import ClosedChains
from distwatch.diagnosis.facts.waits import Bundle, Edge, Kind


class WaitGraph:
    """Who waits for whom in a job, and what follows from that.

    Ten thousand ranks that wait for one, or fifty that wait for ten thousand unseen ranks, are one
    bundle: nothing here enumerates their pairs.

    Args:
        abroad: ranks that wait for processes of other worlds, or for ranks that nothing names.
    """

    def __init__(self, bundles: Iterable[Bundle], abroad: Iterable[int] = ()) -> None:
        self._abroad = frozenset(abroad)
        self._bundles = [bundle for bundle in bundles if bundle.waiters and bundle.awaited]
        self._overdue = {id(b) for b in self._bundles if b.overdue and not b.is_joint}
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
        return any(id(bundle) in self._overdue for bundle in self._in.get(rank, ()))

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
        closed = ClosedChains(self._out, self._in, stuck)
        for start in closed.starts():
            chain = closed.shortest_chain(start)
            if chain:
                found.setdefault(frozenset(edge.waiter for edge in chain), chain)
        chains = sorted(found.values(), key=lambda chain: (len(chain), chain[0].waiter))
        # A cycle through the ranks of a shorter cycle says nothing new.
        kept: list[tuple[Edge, ...]] = []
        told: set[int] = set()
        for chain in chains:
            members = {edge.waiter for edge in chain}
            if told.isdisjoint(members):
                kept.append(chain)
                told |= members
        return kept
