"""Which rank waits for which: one graph over the ranks, with the culprits at its ends."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Literal

import msgspec

from distwatch.diagnosis.facts.activity import (
    activity_of,
    any_thread_communicates,
    awaited_lock_file,
    socket_peer,
)
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.initializations import stuck_creation
from distwatch.diagnosis.facts.job import Job, was_cut_off
from distwatch.diagnosis.facts.loads import load_under_way
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.peer_waits import PeerWait
from distwatch.diagnosis.facts.stack_calls import (
    STILL_S,
    call_by_stack,
    is_seen_from_outside,
    still_s,
    waited_s,
)
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.state.model import Process
from distwatch.state.steps import COLLECTIVE, INIT, LOAD

SETTLED_S = 1.0
"""A wait counts once it has lasted this long."""


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


def wait_graph(
    job: Job,
    groups: Iterable[GroupView],
    shared: Iterable[Bundle] = (),
    abroad: Iterable[int] = (),
) -> WaitGraph:
    """The graph of a job with these groups. A rank that is seen to be elsewhere waits for nobody.

    An asynchronous collective or send does not block the rank that posted it while its main
    thread works at something else.
    """
    elsewhere: dict[int, bool] = {}

    def is_held_up(rank: int) -> bool:
        if rank not in elsewhere:
            elsewhere[rank] = _is_elsewhere(job, rank)
        return not elsewhere[rank]

    # A stack in a lock is not work of the rank's own, where another rank holds that lock.
    waits = [
        msgspec.structs.replace(
            bundle, waiters={r: w for r, w in bundle.waiters.items() if is_held_up(r)}
        )
        for bundle in (
            *_collective_bundles(job, groups),
            *_device_bundles(job),
            *_peer_bundles(job),
            *_creation_bundles(job),
            *_stack_bundles(job),
            *shared,
        )
    ]
    return WaitGraph([*waits, *_lock_bundles(job), *_socket_bundles(job)], abroad)


def _is_elsewhere(job: Job, rank: int) -> bool:
    """Whether its stack or system call shows a rank at work of its own."""
    process = job.ranks.get(rank)
    if process is None or (process.ended_ns is not None and not was_cut_off(process)):
        return False
    if job.kernel_state(process) in ("T", "t"):
        return True
    activity = activity_of(job.state, process)
    if activity is None or not activity.certain or activity.waits_for_others:
        return False
    # A server's main thread idles in its event loop while another thread is in the collective.
    return not any_thread_communicates(process)


def _collective_bundles(job: Job, groups: Iterable[GroupView]) -> Iterable[Bundle]:
    for view in groups:
        if view.in_flight and view.missing and not view.on_device:
            yield Bundle(
                kind="collective",
                what=view.call,
                waiters={
                    wait.global_rank: Wait(waited_s=wait.waited_s, overdue=wait.overdue)
                    for wait in job.waits_in(view.pg_name, view.members)
                    if wait.seq == view.seq
                },
                awaited=view.missing,
                pg_name=view.pg_name,
                seq=view.seq,
            )


def _device_bundles(job: Job) -> Iterable[Bundle]:
    """A rank waits where its device is; one whose own device is behind waits for nobody."""
    for meeting in job.device.meetings:
        behind = set(meeting.behind)
        title = job.ranks[meeting.at[0]].groups[meeting.pg_name].pg_desc or meeting.pg_name
        yield Bundle(
            kind="collective",
            what=f"{operation_name(meeting.op) or 'collective'} #{meeting.seq} of {title}",
            waiters={
                wait.global_rank: Wait(waited_s=wait.waited_s, overdue=wait.overdue)
                for wait in job.waits_in(meeting.pg_name, meeting.members)
                if wait.seq == meeting.seq and wait.global_rank not in behind
            },
            awaited=meeting.awaited,
            pg_name=meeting.pg_name,
            seq=meeting.seq,
        )


def _peer_bundles(job: Job) -> Iterable[Bundle]:
    for wait in (*job.peer_waits.values(), *job.batch_waits):
        rank = wait.global_rank
        waited_s = job.peer_waited_s(wait)
        if waited_s >= SETTLED_S:
            yield Bundle(
                kind="p2p",
                what=_peer_text(wait),
                waiters={rank: Wait(waited_s=waited_s, overdue=job.peer_overdue(wait))},
                awaited=wait.awaited,
                pg_name=wait.pg_name,
                seq=wait.posted,
            )


def _peer_text(wait: PeerWait) -> str:
    named = wait.pg_desc and wait.pg_desc not in ("undefined", "default_pg")
    return f"{wait} in {wait.pg_desc}" if named else str(wait)


def _creation_bundles(job: Job) -> Iterable[Bundle]:
    """Ranks in an initialization or a group's creation wait for ranks that are in none."""
    inside: dict[str, dict[int, Wait]] = {}
    for rank, process in job.ranks.items():
        step = stuck_creation(process)
        if step is None:
            step = process.open_call_of(INIT)
        if step is not None:
            waited_s = job.age_s(process, step.started_ns)
            inside.setdefault(step.name, {})[rank] = Wait(waited_s=waited_s)
    within = {rank for waiters in inside.values() for rank in waiters}
    outside = tuple(rank for rank in range(job.world or 0) if rank not in within)
    for name, waiters in inside.items():
        kind: Kind = "group" if name.startswith("new_group") else "init"
        yield Bundle(kind=kind, what=name, waiters=waiters, awaited=outside)


def _stack_bundles(job: Job) -> Iterable[Bundle]:
    """Without distwatch in any rank: those in a call of torch.distributed wait for those that are in none."""
    if not is_seen_from_outside(job):
        return
    calls: dict[str, dict[int, Wait]] = {}
    outside: list[int] = []
    for rank, process in job.ranks.items():
        call, lasted_s = call_by_stack(job, process), waited_s(process)
        if call is not None and call.kind != "p2p":
            waiting = Wait(waited_s=lasted_s, overdue=lasted_s >= STILL_S)
            calls.setdefault(str(call), {})[rank] = waiting
        elif call is None and process.main_frames and not is_in_init_by_stack(process):
            outside.append(rank)
    for what, waiters in calls.items():
        yield Bundle(
            kind="collective", what=what, waiters=waiters, awaited=(*outside, *job.peer_waits)
        )


def _lock_bundles(job: Job) -> Iterable[Bundle]:
    """A rank that waits for a lock file waits for the rank that holds the lock."""
    pids = {(p.host, p.pid): rank for rank, p in job.ranks.items() if p.ended_ns is None}
    for rank, process in job.ranks.items():
        host = job.state.hosts.get(process.host)
        for path, wait in _waits_for_locks(job, rank, process) if host else ():
            looked = host.locks.get(path) if host else None
            if looked is None:
                continue
            held_by = (pids.get((process.host, holder.pid)) for holder in looked.holders)
            yield Bundle(
                kind="lock",
                what=f"the lock {path}",
                waiters={rank: wait},
                awaited=tuple(other for other in held_by if other is not None and other != rank),
            )


def _socket_bundles(job: Job) -> Iterable[Bundle]:
    """A rank without distwatch that reads from a socket of its own waits for the rank at its other end."""
    if not is_seen_from_outside(job):
        return
    for rank, process in job.ranks.items():
        peer = socket_peer(process) if process.ended_ns is None else ""
        other = job.links.rank_at(rank, peer) if peer else None
        if other is not None and other != rank:
            lasted_s = still_s(process)
            yield Bundle(
                kind="socket",
                what=f"a read from its connection to rank {other}",
                waiters={rank: Wait(waited_s=lasted_s, overdue=lasted_s >= STILL_S)},
                awaited=(other,),
            )


def _waits_for_locks(job: Job, rank: int, process: Process) -> Iterable[tuple[str, Wait]]:
    load = load_under_way(job, rank)
    for outstanding in load.outstanding if load else ():
        if outstanding.waiting == "lock":
            waited_s = job.age_s(process, outstanding.since_ns)
            overdue = waited_s > job.deadline_s(process, LOAD)
            yield outstanding.what, Wait(waited_s=waited_s, overdue=overdue)
    if path := awaited_lock_file(process):
        limit_s = job.deadline_s(process, COLLECTIVE) if process.instrumented else STILL_S
        waited_s = still_s(process)
        yield path, Wait(waited_s=waited_s, overdue=waited_s >= limit_s)
