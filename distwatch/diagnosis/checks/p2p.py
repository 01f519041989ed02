"""p2p.unmatched, p2p.cycle; collective.cycle: groups that ranks call in different orders; locks held meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.processes.debugging import debugged_by_intent
from distwatch.diagnosis.facts.call_order import odd_rank
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.initializations import holds_world
from distwatch.diagnosis.facts.peer_waits import PeerWait, describe_tags
from distwatch.diagnosis.facts.waits import Edge
from distwatch.state.advice import SAME_ORDER
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks

_SHOWN = 8
_LOCK_ADVICE = "Let go of the lock before a call that all ranks have to enter: who needs it first never enters that."
_ONE_TOO_MANY = (
    "One of them has a send or recv too many, or the other has one too few: compare the call sites."
)


class PeerMissing:
    """p2p.unmatched: a send or recv whose peer has posted no match and waits for nobody."""

    def find(self, case: Case) -> Iterable[Finding]:
        awaited: dict[int, list[PeerWait]] = {}
        for wait in case.job.peer_waits.values():
            edges = [e for e in case.graph.waits(wait.global_rank) if e.kind == "p2p"]
            if not edges or not case.job.peer_overdue(wait) or wait.peer_rank < 0:
                continue
            if wait.on_device:
                continue  # what runs on devices is judged by their queues
            peer = case.job.ranks.get(wait.peer_rank)
            arriving = peer is not None and peer.instrumented and not holds_world(peer)
            if case.graph.is_waiting(wait.peer_rank) or arriving:
                continue
            awaited.setdefault(wait.peer_rank, []).append(wait)
        for peer_rank, waits in awaited.items():
            if not debugged_by_intent(case, peer_rank):
                yield self._finding(case, peer_rank, waits)

    def _finding(self, case: Case, peer_rank: int, waits: list[PeerWait]) -> Finding:
        waits = sorted(waits, key=case.job.peer_waited_s, reverse=True)
        first = waits[0]
        place = case.where(peer_rank)
        known = first.answered is not None
        other = "recv" if first.op == "send" else "send"
        return Finding(
            code="p2p.unmatched",
            culprit_ranks=(peer_rank,),
            waiting_ranks=tuple(sorted(case.graph.behind([peer_rank]))),
            pg_name=first.pg_name,
            pg_desc=first.pg_desc or None,
            summary=f"rank {peer_rank} has no matching {other} for rank {first.global_rank}'s {first} "
            f"(waiting for {seconds(case.job.peer_waited_s(first))})"
            f"{f'; rank {peer_rank} is at {place}' if place else ''}",
            evidence=(
                *peer_evidence(case, waits[:_SHOWN]),
                Evidence("pulse", _answered_text(first, peer_rank), peer_rank),
                case.place(peer_rank),
            ),
            confidence=0.95 if known else 0.6,
        )


class Circle(msgspec.Struct, frozen=True):
    """What a finding says about ranks that wait for each other."""

    code: str
    what: str
    confidence: float
    advice: str = ""


class Circles:
    """Ranks that wait for each other in a circle, which no other rank could end."""

    def find(self, case: Case) -> Iterable[Finding]:
        for chain in case.graph.cycles(seen=case.job.ranks.keys()):
            circle = None if _may_be_ended(case, chain) else _circle_of(case, chain)
            if circle and (all(edge.overdue for edge in chain) or _has_timed_out(case, chain)):
                yield self._finding(case, chain, circle)

    def _finding(self, case: Case, chain: tuple[Edge, ...], circle: Circle) -> Finding:
        ranks = {edge.waiter for edge in chain}
        culprits, how = ranks, ""
        orders = circle.code != "process.lock_wait" and any(e.kind == "collective" for e in chain)
        odd = odd_rank(case.job, ranks) if orders else None
        if odd is not None:
            culprits, how = (
                {odd},
                f"; of all ranks, only rank {odd} came to its calls in that order",
            )
        elif len(ranks) > 2 and ranks & case.job.device.queues.keys():
            culprits = set()  # which of so many came in another order is not known
        elif any(_may_be_over(case, edge) for edge in chain):
            culprits, how = set(), "; these may be over, as a device has completed later calls"
        group = case.job.ranks[chain[0].waiter].groups.get(chain[0].pg_name)
        longest = max(edge.waited_s for edge in chain)
        return Finding(
            code=circle.code,
            culprit_ranks=tuple(sorted(culprits)),
            waiting_ranks=tuple(sorted((case.graph.behind(ranks) | ranks) - culprits)),
            pg_name=chain[0].pg_name or None,
            pg_desc=(group.pg_desc or None) if group else None,
            summary=f"{name_ranks(ranks)} {circle.what}{how}; for {seconds(longest)}",
            advice=circle.advice,
            evidence=tuple(_edge_evidence(case, chain)),
            confidence=circle.confidence if culprits else 0.5,
        )


def _may_be_ended(case: Case, chain: tuple[Edge, ...]) -> bool:
    """Whether a device in a circle of sends and recvs also stands at one with a rank of which nothing is known.

    Sends and recvs with several peers are heads of one queue, and which of them runs first is not known.
    """
    return all(edge.kind == "p2p" for edge in chain) and any(
        edge.waiter in case.job.device.queues and wait.awaited not in case.job.ranks
        for edge in chain
        for wait in case.graph.waits(edge.waiter)
    )


def _may_be_over(case: Case, edge: Edge) -> bool:
    """Whether a device has gone on after a send or recv: entries of a batch stay open for good (pytorch#137969)."""
    if edge.kind != "p2p" or not case.job.peer_waits[edge.waiter].on_device:
        return False
    dumped = case.job.ranks[edge.waiter].collectives
    entries = sorted(dumped.entries if dumped else (), key=lambda entry: entry.created_wall_ns)
    of_group = [entry for entry in entries if entry.is_p2p and entry.pg_name == edge.pg_name]
    if any(entry.over for entry in of_group):
        return False
    first = next((e.created_wall_ns for e in of_group if e.seq == edge.seq), None)
    return first is not None and any(
        entry.over and not entry.is_p2p and entry.created_wall_ns > first for entry in entries
    )


def _circle_of(case: Case, chain: tuple[Edge, ...]) -> Circle | None:
    kinds = {edge.kind for edge in chain}
    calls = "; ".join(f"rank {edge.waiter} is in {edge.what}" for edge in chain)
    if kinds == {"p2p", "collective"}:
        what = f"wait for each other in different calls: {calls}"
        return Circle("p2p.unmatched", what, 0.7, _ONE_TOO_MANY)
    if kinds == {"collective"}:
        if len({e.pg_name for e in chain}) == 1 and any(e.seq < 0 for e in chain):
            return None  # a monitored barrier and another call of one group: its own check knows the sides
        listed = "; ".join(
            f"rank {edge.waiter} is in {edge.what} and waits for rank {edge.awaited}"
            for edge in chain
        )
        what = f"call their groups in different orders: {listed}"
        return Circle("collective.cycle", what, 0.8, SAME_ORDER)
    if "lock" in kinds and kinds <= {"lock", "p2p", "collective"}:
        listed = "; ".join(map(_lock_or_call, chain))
        return Circle("process.lock_wait", f"wait for each other: {listed}", 0.9, _LOCK_ADVICE)
    if "socket" in kinds and kinds <= {"socket", "p2p", "collective"}:
        code = "p2p.cycle" if kinds == {"socket"} else "p2p.unmatched"
        return Circle(code, f"wait for each other: {calls}", 0.6)
    if kinds != {"p2p"}:
        return None
    if differ := describe_tags([case.job.peer_waits[edge.waiter] for edge in chain]):
        what = f"miss each other's calls because {differ}: {calls}"
        return Circle("p2p.unmatched", what, 0.95, "Give both calls the same tag and group.")
    # A device that has lost its place looks the same: what the other side has completed is not told.
    on_device = any(case.job.peer_waits[edge.waiter].on_device for edge in chain)
    confidence = 0.7 if on_device else 0.95
    return Circle("p2p.cycle", f"wait for each other in a circle: {calls}", confidence)


def _lock_or_call(edge: Edge) -> str:
    if edge.kind == "lock":
        return f"rank {edge.waiter} waits for {edge.what}, which rank {edge.awaited} holds"
    return f"rank {edge.waiter} is in {edge.what}"


def peer_evidence(case: Case, waits: Iterable[PeerWait]) -> Iterable[Evidence]:
    """What each of these ranks has posted, where, and for how long."""
    for wait in waits:
        size = f" of {wait.numel} {wait.dtype} elements" if wait.numel >= 0 else ""
        at = case.at(wait.site, ", called at")
        waited = seconds(case.job.peer_waited_s(wait))
        text = f"rank {wait.global_rank}: {wait}{size}{at}, for {waited}"
        yield Evidence("operations" if wait.posted else "stack", text, wait.global_rank)


def _edge_evidence(case: Case, chain: tuple[Edge, ...]) -> Iterable[Evidence]:
    for edge in chain[:_SHOWN]:
        if edge.kind == "p2p":
            yield from peer_evidence(case, [case.job.peer_waits[edge.waiter]])
            continue
        operation = case.job.operation(edge.waiter, edge.pg_name, edge.seq)
        site = case.job.site_of(edge.waiter, operation) if operation else None
        at = case.at(site, ", called at")
        text = f"rank {edge.waiter}: {edge.what}{at}, for {seconds(edge.waited_s)}"
        if edge.kind in ("socket", "lock"):
            yield Evidence("proc", text, edge.waiter)
        else:
            yield Evidence("operations" if operation else "flight_recorder", text, edge.waiter)
    for edge in chain[:_SHOWN]:
        yield case.place(edge.waiter)


def _answered_text(wait: PeerWait, peer_rank: int) -> str:
    calls = "recvs" if wait.op == "send" else "sends"
    if wait.answered is None:
        return f"what rank {peer_rank} has posted was not observed"
    way = "from" if wait.op == "send" else "to"
    posted = f"rank {peer_rank} has posted {wait.answered} {calls} {way} rank {wait.global_rank}"
    return f"{posted}, but {wait.posted} are needed"


def _has_timed_out(case: Case, chain: tuple[Edge, ...]) -> bool:
    # Once one rank has given up, the others may not have waited long enough themselves.
    return any(edge.overdue for edge in chain) and any(
        case.job.ranks[edge.waiter].ended_ns is not None for edge in chain
    )
