"""rendezvous.store_unreachable: ranks that cannot connect to the store where the others wait."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.absence import absence_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.endpoints import (
    Endpoint,
    Look,
    endpoint_of,
    endpoint_text,
    look_from,
    same_endpoint,
)
from distwatch.diagnosis.facts.init_waits import evidence_of_waiting, overdue_ranks, wait_clause
from distwatch.diagnosis.facts.initializations import depth
from distwatch.state.advice import NO_ANSWER, RANK_0_HOST, UNRESOLVED
from distwatch.state.finding import Evidence, Finding
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.state.steps import INIT

PATIENCE_S = 5.0
"""A host that is starting, or a store that answers slowly, gets this long."""
STALE_NS = 10_000_000_000
_BEFORE_THE_STORE = (*INIT.calls, *INIT.parts[: 1 + INIT.parts.index("store")])
_ADVICE = {
    "unresolved": UNRESOLVED,
    "no_answer": NO_ANSWER,
    "refused": f"{RANK_0_HOST} MASTER_PORT must be the same everywhere.",
    "silent": "Find out why the process that hosts the store does not answer (its stack, its state).",
    "error": "Check the route and the network interface to that host.",
}
_TELLS = {
    "unresolved": "its name does not resolve",
    "no_answer": "no answer (the host is down, or a firewall drops the packets)",
    "refused": "no process listens there",
    "silent": "it accepts connections but does not answer",
    "error": "the connection fails",
}


def unreachable_ranks(case: Case) -> set[int]:
    """The ranks of all `store_unreachable` findings."""
    return {rank for _, ranks in _stuck(case) for rank in ranks} | set(_left_outside(case))


class StoreUnreachable:
    """One finding for each host and outcome."""

    def find(self, case: Case) -> Iterable[Finding]:
        stuck = _stuck(case)
        for look, ranks in stuck:
            yield self._finding(case, look, ranks)
        told = {rank for _, ranks in stuck for rank in ranks}
        if outside := [rank for rank in _left_outside(case) if rank not in told]:
            yield self._by_elimination(case, outside)

    def _finding(self, case: Case, look: Look, ranks: list[int]) -> Finding:
        probed = look.probed
        waiting = tuple(rank for rank in case.waiting if rank not in ranks)
        detail = probed.detail or _TELLS[probed.outcome]
        addresses = f" ({', '.join(probed.addresses[:4])})" if probed.addresses else ""
        tail = f"; {wait_clause(case, waiting)} for {agree(ranks, 'it', 'them')}"
        return Finding(
            code="rendezvous.store_unreachable",
            culprit_ranks=tuple(ranks),
            waiting_ranks=waiting,
            summary=f"{name_ranks(ranks)} on {probed.host} cannot reach the store at {probed.endpoint}: {detail}"
            + (tail if waiting else ""),
            advice=_ADVICE[probed.outcome],
            evidence=(
                Evidence(
                    "store",
                    f"{probed.endpoint}{addresses}, seen from {probed.host}: {probed.outcome}, {detail}",
                ),
                *_evidence_of_host(case, ranks),
                *evidence_of_waiting(case, [*ranks, *waiting]),
            ),
            confidence={"unresolved": 0.95, "no_answer": 0.9}.get(probed.outcome, 0.7),
        )

    def _by_elimination(self, case: Case, ranks: list[int]) -> Finding:
        """Rank 0 listens, and these ranks never connected to it: no look from there is needed."""
        waiting = tuple(rank for rank in case.waiting if rank not in ranks)
        where = endpoint_text(case.job.ranks[ranks[0]])
        return Finding(
            code="rendezvous.store_unreachable",
            culprit_ranks=tuple(ranks),
            waiting_ranks=waiting,
            summary=f"{name_ranks(ranks)} cannot connect to the TCPStore at {where}, where rank 0 listens; "
            f"{wait_clause(case, waiting)} for {agree(ranks, 'it', 'them')}",
            advice=NO_ANSWER,
            evidence=(
                *_evidence_of_host(case, ranks),
                *evidence_of_waiting(case, [*ranks, *waiting]),
            ),
            confidence=0.7,
        )


def _left_outside(case: Case) -> list[int]:
    """Ranks that are past their deadline and not yet connected, while rank 0 hosts the store.

    A client of the store continues once it is connected; only the host waits for all.
    """
    if absence_of(case).ranks:
        return []
    late = [rank for rank in overdue_ranks(case) if not case.waiting[rank].error]
    return [
        rank
        for rank in late
        if rank != 0 and _is_connecting(case, rank) and _is_hosted_elsewhere(case, rank)
    ]


def _is_connecting(case: Case, rank: int) -> bool:
    process = case.job.ranks[rank]
    inner = depth(process, case.waiting[rank])
    look = look_from(case.state, process.host, endpoint_of(process))
    answered = look is not None and look.probed.outcome == "store"
    return not answered and bool(inner) and inner[-1].name in ("rendezvous", "endpoint")


def _evidence_of_host(case: Case, ranks: list[int]) -> Iterable[Evidence]:
    host = case.job.ranks.get(0)
    if host is None or 0 in ranks or 0 not in case.waiting:
        return
    text = (
        f"rank 0 is in its initialization at {endpoint_text(host)} on {host.host} (pid {host.pid})"
    )
    yield Evidence("journal", text, 0)


def _stuck(case: Case) -> list[tuple[Look, list[int]]]:
    found: dict[tuple[str, Endpoint], list[int]] = {}
    for rank in case.waiting:
        process = case.job.ranks[rank]
        network = process.planned is None or process.planned.method not in ("file", "alone")
        if network and _has_no_store_yet(case, rank):
            found.setdefault((process.host, endpoint_of(process)), []).append(rank)
    stuck = []
    for (host, place), ranks in sorted(found.items(), key=lambda item: item[1]):
        look = look_from(case.state, host, place)
        begun_ns = min(case.waiting[rank].started_ns for rank in ranks)
        # A look is valid until another shows a change; one from before all of them says nothing.
        if look is not None and look.time_ns + STALE_NS >= begun_ns:
            held = [rank for rank in ranks if _is_blocked(case, look, rank)]
            stuck += [(look, held)] if held else []
    return stuck


def _has_no_store_yet(case: Case, rank: int) -> bool:
    step = case.waiting[rank]
    if step.error:
        return "socket" in step.error or "connect" in step.error or step.name == "initialize"
    inner = depth(case.job.ranks[rank], step)
    return not inner or inner[-1].name in _BEFORE_THE_STORE


def _is_blocked(case: Case, look: Look, rank: int) -> bool:
    outcome = look.probed.outcome
    if outcome == "unresolved":
        return True
    if case.waiting_s(rank) < PATIENCE_S:
        return False
    if outcome == "error":
        return not look.probed.detail.startswith("not observed")
    if outcome == "no_answer":
        return True
    if outcome == "refused":
        return rank != 0 and look.answered_ns is None and _is_hosted_elsewhere(case, rank)
    return outcome == "silent" and _is_hosted_by_us(case, look)


def _is_hosted_elsewhere(case: Case, rank: int) -> bool:
    """Whether rank 0 has listened for long, and this rank does not reach it."""
    host = case.job.ranks.get(0)
    if host is None or host.planned is None or 0 not in case.waiting or case.waiting[0].error:
        return False
    if case.job.kernel_state(host) in ("T", "D"):
        return False  # its store cannot answer
    here = same_endpoint(endpoint_of(case.job.ranks[rank]), endpoint_of(host), case.state)
    return bool(here) and host.planned.hosts_store and case.waiting_s(0) >= PATIENCE_S


def _is_hosted_by_us(case: Case, look: Look) -> bool:
    """A store of this job that accepts and does not answer; a stopped one has a finding of its own."""
    owner = case.state.processes.get(look.probed.owner_process or "")
    return owner is not None and case.job.kernel_state(owner) != "T"
