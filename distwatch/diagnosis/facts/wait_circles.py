"""Closed chains of waits in a graph of bundles, without enumerating the pairs of ranks in a bundle."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from distwatch.diagnosis.facts.waits import Bundle, Edge

Ends = Callable[[Bundle], Collection[int]]
Table = Mapping[int, list[Bundle]]


def _waiters(bundle: Bundle) -> Collection[int]:
    return bundle.waiters


def _awaited(bundle: Bundle) -> Collection[int]:
    return bundle.awaited


class ClosedChains:
    """The closed chains among some ranks.

    Args:
        out, into: of each rank, the bundles in which it waits and those in which it is awaited.
        stuck: those ranks.
    """

    def __init__(self, out: Table, into: Table, stuck: Iterable[int]) -> None:
        left = _fed(set(stuck), into, out, _waiters, _awaited)
        self._ranks = _fed(left, out, into, _awaited, _waiters)
        self._out = {rank: out[rank] for rank in self._ranks}
        self._into = into
        self._near: dict[int, tuple[int, ...]] = {}
        """By bundle, the ranks that are awaited in it and may be in a circle, in order."""
        for bundle in (bundle for bundles in self._out.values() for bundle in bundles):
            if id(bundle) not in self._near:
                near = {rank for rank in bundle.awaited if rank in self._ranks}
                self._near[id(bundle)] = tuple(sorted(near))

    def starts(self) -> list[int]:
        """Ranks through whose shortest chains all circles are found that count.

        Ranks that wait in the same bundles and are awaited in the same ones differ in nothing but their number.
        Who waits for one rank only is in no shorter circle than that one is.
        """
        only = {rank: found for rank in self._ranks if (found := self._only(rank)) is not None}
        alike: dict[object, int] = {}
        for rank in sorted(self._ranks - only.keys()):
            places = (
                tuple(id(bundle) for bundle in self._out[rank]),
                tuple(id(bundle) for bundle in self._into[rank]),
            )
            alike.setdefault(places, rank)
        return sorted([*alike.values(), *_rounds(only)])

    def _only(self, rank: int) -> int | None:
        """The one rank that it waits for; None where there are several."""
        near = [self._near[id(bundle)] for bundle in self._out[rank]]
        near = [ranks for ranks in near if ranks]
        first = near[0][0]
        return first if all(len(ranks) == 1 and ranks[0] == first for ranks in near) else None

    def shortest_chain(self, start: int) -> tuple[Edge, ...]:
        """From `start` back to it, breadth first, told from its lowest rank; () where no chain returns."""
        came: dict[int, Edge] = {}
        todo, done = [start], set[int]()
        while todo:
            following: list[int] = []
            for rank in todo:
                for bundle in self._longest_first(rank):
                    if id(bundle) in done:
                        continue
                    done.add(id(bundle))
                    for awaited in self._near[id(bundle)]:
                        if awaited == start:
                            return _chain(came, start, bundle.edge(rank, awaited))
                        if awaited not in came:
                            came[awaited] = bundle.edge(rank, awaited)
                            following.append(awaited)
            todo = following
        return ()

    def _longest_first(self, rank: int) -> list[Bundle]:
        near = self._near
        bundles = [bundle for bundle in self._out[rank] if near[id(bundle)]]
        return sorted(bundles, key=lambda b: (-b.waiters[rank].waited_s, near[id(b)][0]))


def _fed(ranks: set[int], into: Table, out: Table, feeders: Ends, fed: Ends) -> set[int]:
    """Without those that have no feeder among them, and so on: they are in no circle."""
    bundles = {id(bundle): bundle for rank in ranks for bundle in out.get(rank, ())}
    feeding = {key: sum(r in ranks for r in feeders(bundle)) for key, bundle in bundles.items()}
    fed_by = {rank: sum(feeding.get(id(b), 0) > 0 for b in into.get(rank, ())) for rank in ranks}
    left, gone = set(ranks), [rank for rank in ranks if not fed_by[rank]]
    while gone:
        rank = gone.pop()
        left.discard(rank)
        for bundle in out.get(rank, ()):
            feeding[id(bundle)] -= 1
            for one in fed(bundle) if not feeding[id(bundle)] else ():
                if one in left:
                    fed_by[one] -= 1
                    if not fed_by[one]:
                        gone.append(one)
    return left


def _rounds(only: Mapping[int, int]) -> list[int]:
    """The lowest rank of each closed chain in which each waits for one rank only."""
    found: list[int] = []
    walked: set[int] = set()
    for first in sorted(only):
        path: dict[int, int] = {}
        here = first
        while here in only and here not in walked:
            walked.add(here)
            path[here] = len(path)
            here = only[here]
        if here in path:
            found.append(min(list(path)[path[here] :]))
    return found


def _chain(came: Mapping[int, Edge], start: int, last: Edge) -> tuple[Edge, ...]:
    edges = [last]
    while edges[-1].waiter != start:
        edges.append(came[edges[-1].waiter])
    edges.reverse()
    lowest = min(range(len(edges)), key=lambda n: edges[n].waiter)
    return (*edges[lowest:], *edges[:lowest])
