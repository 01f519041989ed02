"""The world that each of Ray's rows belongs to, where a run holds several worlds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from distwatch.diagnosis.facts.case import Case
from distwatch.state.ray_events import RayActorSeen


def share_rows(cases: Sequence[Case]) -> None:
    """Gives each actor and placement group to one world, so that nothing is reported twice."""
    if len(cases) < 2:
        return
    homes = {
        actor.actor_id: number
        for number, case in enumerate(cases)
        for process in case.job.processes
        if (actor := case.ray.actor_of(process)) is not None
    }
    actors = cases[0].actors
    for actor in actors:
        homes.setdefault(actor.actor_id, _likely_home(actor, cases))
    members = Counter(
        (actor.placement_group, homes[actor.actor_id]) for actor in actors if actor.placement_group
    )
    groups = cases[0].placement_groups
    for number, case in enumerate(cases):
        case.actors = tuple(actor for actor in actors if homes[actor.actor_id] == number)
        case.placement_groups = tuple(
            group
            for group in groups
            if number == max(range(len(cases)), key=lambda n: (members[group.group_id, n], -n))
        )


def _likely_home(actor: RayActorSeen, cases: Sequence[Case]) -> int:
    """The world that lacks this rank, preferably one in which others wait; else the largest."""
    if actor.global_rank is None:
        return 0
    lacking = [
        number
        for number, case in enumerate(cases)
        if actor.global_rank not in case.job.ranks
        and (actor.world_size or case.job.world) == case.job.world
    ]
    return min(lacking, key=lambda number: (not cases[number].waiting, number), default=0)
