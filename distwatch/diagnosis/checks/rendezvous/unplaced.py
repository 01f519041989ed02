"""rendezvous.rank_never_started in Ray: actors and placement groups that Ray cannot place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distwatch.diagnosis.facts.absence import absence_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.init_waits import evidence_of_waiting, overdue_ranks, wait_clause
from distwatch.diagnosis.facts.ray_resources import (
    bundles_text,
    shape_text,
    what_group_lacks,
    what_lacks,
)
from distwatch.diagnosis.facts.ray_view import actor_title, titles
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.state.ray_events import RayActorSeen, RayGroupSeen
from distwatch.state.steps import INIT

WATCHED_S = 8.0
"""The patience in a run without distwatch: somebody looks because it hangs, and saw only the end of the wait."""
_LISTED = 8


class ActorsUnplaced:
    """One finding for each placement group, and for each set of resources that actors wait for."""

    def find(self, case: Case) -> Iterable[Finding]:
        waiting = [a for a in case.actors if a.waits and not a.restarts]
        groups = [group for group in case.placement_groups if group.waits]
        if not waiting and not groups:
            return
        overdue, limit_s = bool(overdue_ranks(case)), _limit_s(case)

        def is_due(actor: RayActorSeen) -> bool:
            """It has waited too long, or others have waited too long by now."""
            awaited = overdue and actor.global_rank is not None
            return awaited or case.ray.waited_s(actor) > limit_s

        for group in groups:
            members = [a for a in waiting if a.placement_group == group.group_id]
            if case.ray.waited_s(group) > limit_s or any(is_due(actor) for actor in members):
                yield self._group(case, group, members)
        unmet = {group.group_id for group in groups}
        rest = [a for a in waiting if a.placement_group not in unmet]
        for actors in _alike(filter(is_due, rest)):
            yield self._actors(case, actors, len(waiting) - len(actors))

    def _group(self, case: Case, group: RayGroupSeen, members: list[RayActorSeen]) -> Finding:
        name = f' "{group.name}"' if group.name else f" {group.group_id[:12]}"
        lacks = what_group_lacks(group, case.ray.living_nodes())
        behind = f"; {_wait_for_it(members)}" if members else ""
        text = (
            f"placement group{name} ({group.strategy}): {group.state} for {_age(case, group)}, "
            f"Ray's scheduler says {group.scheduling or 'nothing'}"
        )
        return _finding(
            case,
            members,
            summary=f"Ray cannot schedule placement group{name} ({group.strategy}): it asks for "
            f"{bundles_text(group.bundles)}; {lacks}{behind}",
            advice="Add nodes that hold it, ask for smaller bundles or another strategy, or end what "
            "holds the resources (`ray status` lists who does).",
            evidence=[Evidence("proc", text), *_rows(case, members)],
            confidence=0.95,
        )

    def _actors(self, case: Case, actors: list[RayActorSeen], others: int) -> Finding:
        first = actors[0]
        unready = first.state == "DEPENDENCIES_UNREADY"
        needs = shape_text(first.needs)
        lacks = (
            "its constructor's arguments are not ready: the tasks or objects that they come from "
            "have not ended"
            if unready
            else f"{'each ' if len(actors) > 1 else ''}needs {needs}; "
            f"{what_lacks(first.needs, case.ray.living_nodes())}"
        )
        ranks = [a.global_rank for a in actors if a.global_rank is not None]
        who = f"{name_ranks(ranks)} never started: " if ranks else ""
        also = f"; {others} other actor{'s wait' if others > 1 else ' waits'}" if others else ""
        return _finding(
            case,
            actors,
            summary=f"{who}Ray has not placed {titles(actors)}: {lacks}{also}",
            advice="See why that task does not end (`ray list tasks`)."
            if unready
            else "Ask for less (`num_cpus`, `num_gpus`, `resources` of the actor), add a node that has it, "
            "or end what holds it (`ray status` lists who does).",
            evidence=_rows(case, actors),
            confidence=0.8 if unready else 0.95,
        )


class ActorsUnobserved:
    """rank_missing: others wait for ranks that Ray has placed on nodes that nobody observes."""

    def find(self, case: Case) -> Iterable[Finding]:
        unseen = absence_of(case).unseen if case.actors else ()
        if not unseen or not overdue_ranks(case):
            return
        known = unstarted_ranks(case)
        placed = [known[rank] for rank in unseen if rank in known and known[rank].is_placed]
        if not placed:
            return
        ranks = tuple(actor.global_rank for actor in placed if actor.global_rank is not None)
        first = placed[0]
        yield Finding(
            code="rendezvous.rank_missing",
            culprit_ranks=ranks,
            waiting_ranks=tuple(case.waiting),
            summary=f"{name_ranks(ranks, 'has', 'have')} not arrived, as far as this observer sees: Ray has "
            f"placed {agree(ranks, 'it', 'them')} ({actor_title(first)}: {case.ray.node_text(first.node_id)}, "
            f"pid {first.pid}), and nobody observes that node; {wait_clause(case)}",
            advice="Turn distwatch on in all actors, or look there: `distwatch attach PID` on that node.",
            evidence=(*_rows(case, placed), *evidence_of_waiting(case)),
            confidence=0.4,  # it may be waiting there, too
        )


def unstarted_ranks(case: Case) -> dict[int, RayActorSeen]:
    """Ranks without a process that was seen, for which Ray knows what happened to their actor."""
    return {
        actor.global_rank: actor
        for actor in sorted(case.actors, key=lambda a: a.state != "DEAD")
        if actor.global_rank is not None and actor.global_rank not in case.job.ranks
    }


def blocks(case: Case) -> bool:
    """Whether no rank can continue without what Ray has not placed, or has lost."""
    if overdue_ranks(case):
        return True
    alive = {r: p for r, p in case.job.ranks.items() if p.ended_ns is None and p.role == "rank"}
    return all(rank in case.waiting or _waits_by_stack(case, p) for rank, p in alive.items())


def _waits_by_stack(case: Case, process: Process) -> bool:
    """A rank without distwatch shows this only in its stack."""
    job = case.job
    waits = is_in_init_by_stack(process) or bool(job.in_collective_by_stack(process))
    return waits and not process.instrumented


def _finding(
    case: Case,
    actors: Sequence[RayActorSeen],
    *,
    summary: str,
    advice: str,
    evidence: Iterable[Evidence],
    confidence: float,
) -> Finding:
    ranks = {actor.global_rank for actor in actors if actor.global_rank is not None}
    culprits = tuple(sorted(ranks - case.job.ranks.keys()))
    absence = absence_of(case)
    waiting = tuple(rank for rank in case.waiting if rank not in culprits)
    # A rank that waits for ranks known to be elsewhere does not wait for an actor without a rank.
    unknown = set(absence.unseen) - unstarted_ranks(case).keys()
    awaited = set(absence.ranks) & set(culprits) if culprits else unknown or not case.waiting
    told = f"; {wait_clause(case, waiting)} in init_process_group" if awaited and waiting else ""
    return Finding(
        code="rendezvous.rank_never_started",
        severity="hang" if blocks(case) and (culprits or awaited) else "warning",
        culprit_ranks=culprits,
        waiting_ranks=waiting if awaited else (),
        summary=f"{summary}{told}",
        advice=advice,
        evidence=(*evidence, *evidence_of_waiting(case, waiting)),
        confidence=confidence if _limit_s(case) != WATCHED_S else min(confidence, 0.7),
    )


def _limit_s(case: Case) -> float:
    """The run's deadline for an initialization, and so for a placement."""
    started = [p.started for p in case.state.processes.values() if p.started is not None]
    return min(
        (one.deadlines.get(INIT.name, INIT.deadline_s) for one in started), default=WATCHED_S
    )


def _alike(actors: Iterable[RayActorSeen]) -> list[list[RayActorSeen]]:
    """Actors that wait for the same resources, those with ranks apart from those without."""
    found: dict[tuple[object, ...], list[RayActorSeen]] = {}
    for actor in sorted(actors, key=_by_rank):
        unready = actor.state == "DEPENDENCIES_UNREADY"
        needs = () if unready else tuple(sorted(actor.needs.items()))
        found.setdefault((actor.global_rank is None, unready, needs), []).append(actor)
    return list(found.values())


def _by_rank(actor: RayActorSeen) -> tuple[int, str]:
    return (-1 if actor.global_rank is None else actor.global_rank), actor.actor_id


def _wait_for_it(members: list[RayActorSeen]) -> str:
    ranks = [actor.global_rank for actor in members if actor.global_rank is not None]
    whose = f" ({name_ranks(ranks)})" if ranks else ""
    count = len(members)
    return f"{count} actor{'s wait' if count > 1 else ' waits'} for it: {titles(members)}{whose}"


def _rows(case: Case, actors: Sequence[RayActorSeen]) -> list[Evidence]:
    return [
        Evidence(
            "proc",
            f"Ray: {actor_title(actor)} is {actor.state} for {_age(case, actor)}, "
            f"{_place(case, actor)}; actor {actor.actor_id}",
            actor.global_rank,
        )
        for actor in actors[:_LISTED]
    ]


def _place(case: Case, actor: RayActorSeen) -> str:
    if not actor.is_placed:
        return "on no node"
    return f"on {case.ray.node_text(actor.node_id)}, pid {actor.pid}"


def _age(case: Case, row: RayActorSeen | RayGroupSeen) -> str:
    return f"at least {seconds(case.ray.waited_s(row))}"
