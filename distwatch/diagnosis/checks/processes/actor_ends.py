"""process.*: ranks and actors that ended, by Ray's word, where no observer saw it; and restarts.

What an observer saw is better evidence: `processes` and `rendezvous` report such ends, and
`ray_causes` adds what Ray says.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.rendezvous.unplaced import blocks
from distwatch.diagnosis.facts.absence import absence_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.host_links import unseen_hosts
from distwatch.diagnosis.facts.init_waits import evidence_of_waiting, overdue_ranks
from distwatch.diagnosis.facts.initializations import holds_world
from distwatch.diagnosis.facts.ray_view import actor_title, titles
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import agree, inflect, name_ranks
from distwatch.state.ray_events import IN_ORDER, RayActorSeen

_LISTED = 8
RESTARTS_TOLD = 2
"""An actor that was restarted once and lives is what its owner wants."""


class Death(msgspec.Struct, frozen=True):
    """One of Ray's causes of an actor's death. `verb` agrees with the actors."""

    verb: str
    advice: str = "Read the end of that worker's own log (`ray logs actor --id …`)."
    code: str = "process.exited"


_DEATHS = {
    "exited": Death("ended by itself"),
    "killed_by_ray": Death(
        "[was|were] killed by `ray.kill`",
        "Find who called `ray.kill` on it while others still needed it.",
        "process.killed",
    ),
    "released": Death("[was|were] released, since no reference was left"),
    "owner_died": Death("ended because the owner had ended"),
    "node_died": Death(
        "died with the node",
        "Find out why that node is gone (its machine, its raylet's log), and start its ranks again elsewhere.",
    ),
    "worker_died": Death("died: the worker process ended unexpectedly"),
    "init_failed": Death(
        "failed in __init__", "Fix that exception; the other ranks only wait for it."
    ),
    "environment_failed": Death(
        "never ran: Ray could not create the runtime_env",
        "Fix that runtime_env; its error names what could not be made.",
    ),
    "unschedulable": Death(
        "cannot run on any node",
        "Request a node that exists: its scheduling strategy names one that does not.",
    ),
    "out_of_memory": Death(
        "[was|were] killed by Ray's memory monitor",
        "Lower the memory per actor, or place fewer on a node "
        "(`memory=` in its options, RAY_memory_usage_threshold).",
        "process.oom_killed",
    ),
}
_UNKNOWN = Death("died")


def death_verb(death: str, of: Iterable[object]) -> str:
    """What happened to actors, as a verb that agrees: `was killed by Ray's memory monitor`."""
    return inflect(_DEATHS.get(death, _UNKNOWN).verb, of)


class End(msgspec.Struct, frozen=True, kw_only=True):
    """A rank that ended by Ray's word, while no observer saw its process end."""

    global_rank: int
    death: str
    text: str
    node_id: str
    actor: RayActorSeen | None = None
    process: Process | None = None


class ActorsEnded:
    """One finding for each node that died, and for each other cause."""

    def find(self, case: Case) -> Iterable[Finding]:
        ends: dict[tuple[str, str], list[End]] = {}
        for end in ended_by_rays_word(case).values():
            same = end.node_id if end.death == "node_died" else end.text
            ends.setdefault((end.death, same), []).append(end)
        for alike in ends.values():
            yield from self._ranks(case, alike)
        yield from self._without_rank(case)

    def _ranks(self, case: Case, ends: list[End]) -> Iterable[Finding]:
        ranks = tuple(end.global_rank for end in ends)
        death, in_order = _DEATHS.get(ends[0].death, _UNKNOWN), ends[0].death in IN_ORDER
        waiting = set(case.waiting_for(ranks)) - set(ranks)
        if in_order and not _is_awaited(case, ranks):
            return  # somebody wanted it to end
        before = all(e.process is None or not holds_world(e.process) for e in ends)
        arrived = any(case.job.has_arrived(rank) for rank in ranks)
        yield Finding(
            code="rendezvous.rank_died" if case.waiting and before and not arrived else death.code,
            severity="crash",
            culprit_ranks=ranks,
            waiting_ranks=tuple(sorted(waiting)),
            summary=_summary(case, ends),
            advice=death.advice,
            evidence=(
                *(_evidence(case, end) for end in ends[:_LISTED]),
                *evidence_of_waiting(case, [r for r in case.waiting if r not in ranks]),
            ),
            confidence=0.9,
        )

    def _without_rank(self, case: Case) -> Iterable[Finding]:
        """Actors without a rank, or whose rank nobody knows: no rank is blamed for them."""
        dead: dict[tuple[str, str], list[RayActorSeen]] = {}
        for actor in case.actors:
            if actor.failed and _rank_of(case, actor) is None and _is_untold(case, actor):
                same = actor.node_id if actor.death == "node_died" else actor.death_text
                dead.setdefault((actor.death, same), []).append(actor)
        for (death, _), actors in dead.items():
            first = actors[0]
            yield Finding(
                code="process.oom_killed" if death == "out_of_memory" else "process.exited",
                severity="crash" if blocks(case) else "warning",
                waiting_ranks=tuple(case.waiting),
                summary=f"{titles(actors)} {death_verb(death, (a.actor_id for a in actors))}: {first.death_text}",
                advice=_DEATHS.get(death, _UNKNOWN).advice,
                evidence=tuple(
                    Evidence("exit", ray_says(case, actor)) for actor in actors[:_LISTED]
                ),
                confidence=0.8,
            )


class ActorsRestart:
    """An actor that Ray starts again and again, or cannot place again."""

    def find(self, case: Case) -> Iterable[Finding]:
        for actor in case.actors:
            if actor.state == "DEAD" or not _is_restarting(actor) or not _is_untold(case, actor):
                continue
            rank = _rank_of(case, actor)
            ranks = () if rank is None else (rank,)
            needed = _is_awaited(case, ranks)
            waiting = set(case.waiting_for(ranks)) if ranks else set(case.waiting)
            who = f"{name_ranks(ranks)} ({actor_title(actor)})" if ranks else actor_title(actor)
            yield Finding(
                code="process.exited",
                severity="crash" if needed else "warning",
                culprit_ranks=ranks,
                waiting_ranks=tuple(sorted(waiting - set(ranks))) if needed else (),
                summary=f"{who} {restarts_text(actor)}",
                advice="Fix what ends it: each restart begins from nothing, and the other ranks of its world must "
                "start again with it.",
                evidence=(
                    Evidence("exit", ray_says(case, actor), rank),
                    *evidence_of_waiting(case),
                ),
                confidence=0.9,
            )


def ended_by_rays_word(case: Case) -> dict[int, End]:
    """Ranks that ended, as Ray says, and whose end no observer saw."""
    found: dict[int, End] = {}
    if not case.ray.nodes and not case.actors:
        return found
    living = {_rank_of(case, a) for a in case.actors if a.state != "DEAD"}
    for actor in case.actors:
        rank = _rank_of(case, actor)
        if actor.state != "DEAD" or rank is None or rank in living:
            continue
        process = case.job.ranks.get(rank)
        if process is not None and (
            process.ended_ns is not None or case.ray.actor_of(process) is not actor
        ):
            continue
        found[rank] = End(
            global_rank=rank,
            death=actor.death,
            text=actor.death_text,
            node_id=actor.node_id,
            actor=actor,
            process=process,
        )
    hidden = unseen_hosts(case.state)
    for rank, process in case.job.ranks.items():
        node = case.ray.node_of(process)
        gone = node is not None and not node.alive and process.ended_ns is None
        # A process that is seen alive is not dead, whatever Ray says about its node.
        if node is not None and gone and process.host in hidden:
            found[rank] = End(
                global_rank=rank,
                death="node_died",
                text=node.death_text,
                node_id=node.node_id,
                actor=case.ray.actor_of(process),
                process=process,
            )
    return dict(sorted(found.items()))


def restarts_text(actor: RayActorSeen) -> str:
    """`was restarted 3 of 5 times, the last time because …`."""
    allowed = "" if actor.restarts_allowed < 0 else f" of {actor.restarts_allowed}"
    times = f"{actor.restarts}{allowed} time{'' if actor.restarts == 1 else 's'}"
    now = " and has no worker now" if actor.waits else ""
    if not actor.ends:
        return f"was restarted {times}{now}"
    each = "each time" if len(actor.ends) > 1 and len(set(actor.ends)) == 1 else "the last time"
    return f"was restarted {times}{now}, {each} because: {actor.ends[-1]}"


def ray_says(case: Case, actor: RayActorSeen) -> str:
    """All that Ray says about an actor's end, on one line."""
    place = (
        f"on {case.ray.node_text(actor.node_id)}, pid {actor.pid}" if actor.pid else "on no node"
    )
    restarts = f"; it {restarts_text(actor)}" if actor.restarts else ""
    if actor.state != "DEAD":
        return f"Ray: {actor_title(actor)} is {actor.state}, {place}{restarts}"
    died = actor.death_text or death_verb(actor.death, [actor.actor_id])
    return f"Ray: {actor_title(actor)} is dead ({actor.death or 'no cause given'}), {place}: {died}{restarts}"


def _is_awaited(case: Case, ranks: tuple[int, ...]) -> bool:
    """Whether others have waited too long for one of these, in a collective or an initialization."""
    missed = any(view.overdue and set(view.missing) & set(ranks) for view in case.groups)
    return missed or bool(overdue_ranks(case) and set(absence_of(case).ranks) & set(ranks))


def _is_restarting(actor: RayActorSeen) -> bool:
    return actor.state == "RESTARTING" or actor.restarts >= RESTARTS_TOLD


def _is_untold(case: Case, actor: RayActorSeen) -> bool:
    """Whether the other checks saw no end of its process."""
    rank = _rank_of(case, actor)
    if rank is None:
        return True
    process = case.job.ranks.get(rank)
    ended = process is not None and (process.ended_ns is not None or process.exception is not None)
    return not ended


def _rank_of(case: Case, actor: RayActorSeen) -> int | None:
    """Its rank, from its environment or from the process that it lives in."""
    if actor.global_rank is not None:
        return actor.global_rank
    return case.rank_of_actor.get(actor.actor_id)


def _summary(case: Case, ends: list[End]) -> str:
    first = ends[0]
    ranks = [end.global_rank for end in ends]
    actors = [end.actor for end in ends if end.actor is not None]
    who = f"{name_ranks(ranks)} ({titles(actors)})" if actors else name_ranks(ranks)
    if first.death == "node_died":
        node = case.ray.nodes.get(first.node_id)
        why = node.death_text if node and node.death_text else first.text
        place = case.ray.node_text(first.node_id)
        return f"{who} died with {agree(ranks, 'its', 'their')} node: Ray: node {place} died: {why}"
    restarts = next((f"; it {restarts_text(a)}" for a in actors if a.restarts), "")
    return f"{who} {death_verb(first.death, ranks)}: {first.text}{restarts}"


def _evidence(case: Case, end: End) -> Evidence:
    if end.actor is not None and end.actor.state == "DEAD":
        text = ray_says(case, end.actor)
    else:
        place = case.ray.node_text(end.node_id)
        text = f"Ray: node {place} died: {end.text or 'no reason given'}"
        if end.process is not None:
            text += f"; pid {end.process.pid} was placed there"
    return Evidence("exit", text, end.global_rank)
