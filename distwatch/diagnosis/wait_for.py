"""Who waits for whom: one graph over the ranks, whose ends are the culprits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec

from distwatch.diagnosis.initializations import INIT_STEPS, stuck_creation
from distwatch.diagnosis.job import was_cut_off
from distwatch.diagnosis.loads import load_under_way
from distwatch.diagnosis.peer_waits import PeerWait
from distwatch.diagnosis.waiting_on import any_thread_communicates, pastime_of

if TYPE_CHECKING:
    from distwatch.diagnosis.check import Case

SETTLED_S = 1.0
"""A wait counts once it has lasted this long."""


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One rank waits for another, in one thing."""

    waiter: int
    awaited: int
    kind: Literal["collective", "p2p", "group", "init", "lock"]
    what: str
    """`all_reduce #5 of default_pg`, `recv #3 from rank 2`."""
    waited_s: float = 0.0
    overdue: bool = False
    pg_name: str = ""
    seq: int = -1


class WaitGraph:
    """The edges of a case, and what follows from them."""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.edges = tuple(edges)
        self._out: dict[int, list[Edge]] = {}
        for edge in self.edges:
            self._out.setdefault(edge.waiter, []).append(edge)

    def waits(self, rank: int) -> list[Edge]:
        """What a rank waits for; empty where nobody holds it up."""
        return self._out.get(rank, [])

    def behind(self, ranks: Iterable[int]) -> set[int]:
        """The ranks that wait for one of these, directly or over others."""
        reached = set(ranks)
        grown = True
        while grown:
            more = {e.waiter for e in self.edges if e.awaited in reached} - reached
            reached |= more
            grown = bool(more)
        return reached - set(ranks)

    def roots(self) -> set[int]:
        """Ranks that are awaited and wait for nobody."""
        return {edge.awaited for edge in self.edges} - set(self._out)

    def awaited_by(self, rank: int) -> list[Edge]:
        """The waits that this rank could end, the longest first."""
        found = [edge for edge in self.edges if edge.awaited == rank]
        return sorted(found, key=lambda edge: -edge.waited_s)

    def cycles(self) -> list[tuple[Edge, ...]]:
        """Closed chains of waits that nobody outside could end, each once, shortest first.

        A chain starts at its lowest rank; of several edges between two ranks the longest wait
        stands for them.
        """
        found: dict[frozenset[int], tuple[Edge, ...]] = {}
        stuck = {r for r in self._out if not self._reaches_a_root(r)}
        for start in sorted(stuck):
            chain = self._shortest_chain(start, stuck)
            if chain:
                found.setdefault(frozenset(edge.waiter for edge in chain), chain)
        chains = sorted(found.values(), key=lambda chain: (len(chain), chain[0].waiter))
        # One that goes through the ranks of a shorter one says nothing new.
        kept: list[tuple[Edge, ...]] = []
        for chain in chains:
            members = {edge.waiter for edge in chain}
            if not any(members & {edge.waiter for edge in shorter} for shorter in kept):
                kept.append(chain)
        return kept

    def _reaches_a_root(self, rank: int) -> bool:
        seen, todo = {rank}, [rank]
        while todo:
            for edge in self._out.get(todo.pop(), ()):
                if edge.awaited not in self._out:
                    return True
                if edge.awaited not in seen:
                    seen.add(edge.awaited)
                    todo.append(edge.awaited)
        return False

    def _shortest_chain(self, start: int, within: set[int]) -> tuple[Edge, ...]:
        """From `start` back to it, breadth first; () where no chain comes back."""
        came: dict[int, Edge] = {}
        todo = [start]
        while todo:
            following: list[int] = []
            for rank in todo:
                for edge in sorted(self._out.get(rank, ()), key=lambda e: (-e.waited_s, e.awaited)):
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


def wait_graph(case: Case) -> WaitGraph:
    """The graph of a case. A rank that is seen to be elsewhere waits for nobody.

    An asynchronous collective or send does not hold up the rank that has posted it while its
    main thread works at something else.
    """
    return WaitGraph(
        edge
        for edge in _edges(case)
        # Its stack shows a rank in a lock: that is no work of its own, where a rank holds it.
        if edge.kind == "lock" or not is_elsewhere(case, edge.waiter)
    )


def is_elsewhere(case: Case, rank: int) -> bool:
    """Whether its stack or system call shows a rank at something of its own."""
    process = case.job.ranks.get(rank)
    if process is None or (process.ended_ns is not None and not was_cut_off(process)):
        return False
    if case.job.kernel_state(process) in ("T", "t"):
        return True
    pastime = pastime_of(case.state, process)
    if pastime is None or not pastime.certain or pastime.waits_for_others:
        return False
    # A server's main thread idles in its event loop while another one is in the collective.
    return not any_thread_communicates(process)


def _edges(case: Case) -> Iterable[Edge]:
    yield from _collective_edges(case)
    yield from _peer_edges(case)
    yield from _creation_edges(case)
    yield from _lock_edges(case)


def _collective_edges(case: Case) -> Iterable[Edge]:
    for view in case.groups:
        if not view.in_flight:
            continue
        what = f"{view.op or 'collective'} #{view.seq} of {view.title}"
        for wait in case.job.waits:
            if (wait.pg_name, wait.members, wait.seq) != (view.pg_name, view.members, view.seq):
                continue
            for awaited in view.missing:
                yield Edge(
                    waiter=wait.global_rank,
                    awaited=awaited,
                    kind="collective",
                    what=what,
                    waited_s=wait.waited_s,
                    overdue=wait.overdue,
                    pg_name=view.pg_name,
                    seq=view.seq,
                )


def _peer_edges(case: Case) -> Iterable[Edge]:
    for rank, wait in case.job.peer_waits.items():
        waited_s = case.job.peer_waited_s(wait)
        if waited_s < SETTLED_S:
            continue
        for awaited in wait.awaited:
            yield Edge(
                waiter=rank,
                awaited=awaited,
                kind="p2p",
                what=_peer_text(wait),
                waited_s=waited_s,
                overdue=case.job.peer_overdue(wait),
                pg_name=wait.pg_name,
                seq=wait.posted,
            )


def _peer_text(wait: PeerWait) -> str:
    named = wait.pg_desc and wait.pg_desc not in ("undefined", "default_pg")
    return f"{wait} in {wait.pg_desc}" if named else str(wait)


def _creation_edges(case: Case) -> Iterable[Edge]:
    """Ranks inside an initialization or a group's creation wait for those that are in none."""
    inside: dict[int, tuple[str, float]] = {}
    for rank, process in case.job.ranks.items():
        step = stuck_creation(process)
        if step is None:
            step = next((s for s in process.open_steps() if s.name in INIT_STEPS), None)
        if step is not None:
            inside[rank] = (step.name, case.job.age_s(process, step.started_ns))
    outside = [rank for rank in range(case.job.world or 0) if rank not in inside]
    for rank, (name, waited_s) in inside.items():
        for awaited in outside:
            kind: Literal["group", "init"] = "group" if name.startswith("new_group") else "init"
            yield Edge(waiter=rank, awaited=awaited, kind=kind, what=name, waited_s=waited_s)


def _lock_edges(case: Case) -> Iterable[Edge]:
    """A load that waits for a lock file waits for the rank that holds it."""
    pids = {(p.host, p.pid): rank for rank, p in case.job.ranks.items() if p.ended_ns is None}
    for rank, process in case.job.ranks.items():
        host = case.state.hosts.get(process.host)
        load = load_under_way(case.job, rank)
        for outstanding in load.outstanding if load and host else ():
            looked = host.locks.get(outstanding.what) if host else None
            for holder in looked.holders if looked else ():
                awaited = pids.get((process.host, holder.pid))
                waited_s = case.job.age_s(process, outstanding.since_ns)
                if outstanding.waiting == "lock" and awaited is not None and awaited != rank:
                    yield Edge(
                        waiter=rank,
                        awaited=awaited,
                        kind="lock",
                        what=f"the lock {outstanding.what}",
                        waited_s=waited_s,
                        overdue=waited_s > case.job.deadline_s(process, "load"),
                    )
