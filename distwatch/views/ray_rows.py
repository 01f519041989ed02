"""Everything that is wrong in a run's Ray cluster, row by row, for every view."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.processes.actor_ends import death_verb, restarts_text
from distwatch.diagnosis.facts.ray_resources import bundles_text, shape_text
from distwatch.diagnosis.facts.ray_view import RayView, actor_title
from distwatch.state.model import RunState
from distwatch.state.ray_events import RayActorSeen, RayGroupSeen


class RayRow(msgspec.Struct, frozen=True, kw_only=True):
    """An actor, a placement group or a node, in Ray's words."""

    kind: str
    """actor, placement group, node"""
    name: str
    id: str
    global_rank: int | None = None
    state: str = ""
    text: str = ""


def ray_rows(state: RunState) -> list[RayRow]:
    """Actors that wait, were restarted or failed; placement groups that wait; dead nodes."""
    view = RayView(state)
    actors = sorted(
        view.actors.values(), key=lambda a: (a.global_rank is None, a.global_rank or 0, a.actor_id)
    )
    return [
        *(_group(view, group) for group in view.groups.values() if group.waits),
        *(_actor(actor) for actor in actors if _is_of_interest(actor)),
        *_nodes(view),
    ]


def rank_row(state: RunState, global_rank: int) -> RayRow | None:
    """The row of a rank's actor; None where all is well with it, or the rank is not an actor."""
    return next((row for row in ray_rows(state) if row.global_rank == global_rank), None)


def _is_of_interest(actor: RayActorSeen) -> bool:
    return actor.state not in ("ALIVE", "DEAD") or bool(actor.restarts) or actor.failed


def _actor(actor: RayActorSeen) -> RayRow:
    if actor.state == "DEAD":
        text = actor.death_text or death_verb(actor.death, [actor.actor_id])
    elif actor.waits:
        needs = shape_text(actor.needs)
        group = " within its placement group" if actor.placement_group else ""
        text = f"on no node; needs {needs}{group}"
    else:
        text = f"pid {actor.pid}" if actor.pid else ""
    told = [text, f"it {restarts_text(actor)}" if actor.restarts else ""]
    return RayRow(
        kind="actor",
        name=actor_title(actor),
        id=actor.actor_id,
        global_rank=actor.global_rank,
        state=f"{actor.state} ({actor.death})" if actor.death else actor.state,
        text="; ".join(filter(None, told)),
    )


def _group(view: RayView, group: RayGroupSeen) -> RayRow:
    members = sum(
        actor.waits and actor.placement_group == group.group_id for actor in view.actors.values()
    )
    waiting = f"; {members} actor{'s wait' if members > 1 else ' waits'} for it" if members else ""
    return RayRow(
        kind="placement group",
        name=group.name or group.group_id[:12],
        id=group.group_id,
        state=f"{group.state} ({group.scheduling})" if group.scheduling else group.state,
        text=f"{group.strategy} of {bundles_text(group.bundles)}{waiting}",
    )


def _nodes(view: RayView) -> Iterable[RayRow]:
    """Dead nodes that had an actor of the run; an autoscaler removes other nodes all the time."""
    used = {actor.node_id for actor in view.actors.values()}
    for node in view.nodes.values():
        if not node.alive and node.node_id in used:
            name = view.node_text(node.node_id)
            yield RayRow(
                kind="node", name=name, id=node.node_id, state="DEAD", text=node.death_text
            )
