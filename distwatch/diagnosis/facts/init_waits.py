"""Ranks that wait in an initialization: how long, in which step, and whether that is too long."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.communication import has_timed_out
from distwatch.diagnosis.facts.endpoints import endpoint_of, endpoint_text, look_from, looks_at
from distwatch.diagnosis.facts.initializations import depth, knows_its_cause
from distwatch.state.events import EndpointProbed
from distwatch.state.finding import Evidence
from distwatch.state.model import Step
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.state.steps import INIT
from distwatch.visible_text import shorten

_LISTED = 4


def overdue_ranks(case: Case, but_last_s: float = 0.0) -> list[int]:
    """Ranks that have waited beyond a deadline, or failed after it.

    Args:
        but_last_s: seconds at the end that do not count: there was nothing left to wait for.
    """
    return [rank for rank in case.waiting if _is_overdue(case, rank, but_last_s)]


def _is_overdue(case: Case, rank: int, but_last_s: float) -> bool:
    process, step = case.job.ranks[rank], case.waiting[rank]
    # A rank that knows why it failed, or that lost the store, has not waited for anybody.
    if step.error and not but_last_s and has_timed_out(step.error) and not knows_its_cause(step):
        return True
    limit = case.job.limit_s(process, step, INIT)
    if case.waiting_s(rank) - but_last_s > limit:
        return True
    # The steps of distwatch's own initialization have deadlines of their own; torch's share one.
    return step.name == "initialize" and any(
        inner.deadline_s is not None
        and case.job.age_s(process, inner.started_ns) - but_last_s > inner.deadline_s
        for inner in depth(process, step)
    )


def wait_clause(case: Case, ranks: Iterable[int] | None = None) -> str:
    """`ranks 0-1 wait`, `rank 0 waited` where it has given up."""
    waiting = sorted(case.waiting if ranks is None else ranks)
    steps = [case.waiting[rank] for rank in waiting if rank in case.waiting]
    if steps and all(step.error for step in steps):
        return f"{name_ranks(waiting)} waited"
    return name_ranks(waiting, "waits", "wait")


def still_waiting(case: Case) -> str:
    """`ranks 0-1 are still waiting`, `rank 0 waited` where it has given up."""
    waiting = sorted(case.waiting)
    if waiting and all(case.waiting[rank].error for rank in waiting):
        return f"{name_ranks(waiting)} waited"
    return f"{name_ranks(waiting, 'is', 'are')} still waiting"


def evidence_of_waiting(case: Case, ranks: Iterable[int] | None = None) -> Iterable[Evidence]:
    """What some of the waiting ranks are in, and for how long."""
    chosen = [r for r in (case.waiting if ranks is None else ranks) if r in case.waiting]
    for rank in chosen[:_LISTED]:
        yield step_evidence(case, rank, case.waiting[rank])


def step_evidence(case: Case, rank: int, step: Step) -> Evidence:
    """How a rank's step failed, or what the rank is in and for how long."""
    process = case.job.ranks[rank]
    if step.error:
        text = f"rank {rank}: {step.name} failed: {shorten(step.error, 160)}"
    else:
        inner = dict.fromkeys(inner.name for inner in depth(process, step))
        waited = seconds(case.job.age_s(process, step.started_ns))
        text = f"rank {rank} has been in {' → '.join(inner) or step.name} for {waited}"
    site = f" (called at {step.site})" if step.site else ""
    return Evidence("journal", text + site, rank)


def store_views(case: Case) -> list[EndpointProbed]:
    """The newest look of each host at the endpoints where ranks of this case wait."""
    places = dict.fromkeys(endpoint_of(case.job.ranks[rank]) for rank in case.waiting)
    return [look.probed for place in places for look in looks_at(case.state, place)]


def arrived_by_store(case: Case, number: int) -> set[int]:
    """Ranks that published their address in the store. Addresses of an earlier world stay there."""
    if number > 1:
        return set()
    return {rank for view in store_views(case) for rank in view.arrived}


def evidence_of_store(case: Case) -> Iterable[Evidence]:
    """What the stores say about arrived ranks, once for each store."""
    told: set[str] = set()
    for view in store_views(case):
        if view.outcome != "store" or view.endpoint in told:
            continue
        told.add(view.endpoint)
        joined = "an unknown number of" if view.clients is None else str(view.clients)
        came = f"; addresses of {name_ranks(view.arrived)}" if view.arrived else ""
        more = f" ({view.detail})" if view.detail else ""
        text = f"the store at {view.endpoint}: {joined} torch clients have joined{came}{more}"
        yield Evidence("store", text)


def joined_unseen(case: Case) -> bool:
    """Whether more clients have joined rank 0's store than ranks were seen to arrive."""
    host = case.job.ranks.get(0)
    if host is None or host.planned is None or not host.planned.hosts_store:
        return False
    look = look_from(case.state, host.host, endpoint_of(host))
    clients = look.probed.clients if look else None
    come = sum(case.job.has_arrived(rank) for rank in case.job.ranks)
    return clients is not None and host.planned.number == 1 and clients > come


def endpoints_of(case: Case, ranks: Iterable[int]) -> str:
    """The endpoint where ranks wait, or all endpoints where there are several."""
    texts = [endpoint_text(case.job.ranks[rank]) for rank in ranks if rank in case.job.ranks]
    return " and ".join(dict.fromkeys(text for text in texts if text))
