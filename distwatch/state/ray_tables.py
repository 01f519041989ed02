"""The tables of a Ray cluster within a run's state: of each row, the newest sighting."""

from __future__ import annotations

import msgspec

from distwatch.state.ray_events import (
    RayActorSeen,
    RayGroupSeen,
    RayJobSeen,
    RayLooked,
    RayNodeSeen,
)

RayEvent = RayActorSeen | RayNodeSeen | RayGroupSeen | RayJobSeen | RayLooked
RAY_EVENTS = (RayActorSeen, RayNodeSeen, RayGroupSeen, RayJobSeen, RayLooked)


class RayTables(msgspec.Struct, kw_only=True):
    """What the observer of one host read. Changed by `fold_ray` alone."""

    actors: dict[str, RayActorSeen] = {}
    nodes: dict[str, RayNodeSeen] = {}
    groups: dict[str, RayGroupSeen] = {}
    jobs: dict[str, RayJobSeen] = {}
    looked: RayLooked | None = None
    looked_ns: int = 0
    """When it last read them, by its host's clock; 0: it never did."""
    stamps: dict[str, tuple[int, str, int]] = {}


def fold_ray(tables: RayTables, stamp: tuple[int, str, int], event: RayEvent) -> None:
    """Takes a row over, unless a newer sighting of it is known."""
    key = row_key(event)
    if tables.stamps.get(key, (0, "", 0)) >= stamp:
        return
    tables.stamps[key] = stamp
    if isinstance(event, RayActorSeen):
        tables.actors[event.actor_id] = event
    elif isinstance(event, RayNodeSeen):
        tables.nodes[event.node_id] = event
    elif isinstance(event, RayGroupSeen):
        tables.groups[event.group_id] = event
    elif isinstance(event, RayJobSeen):
        tables.jobs[event.job_id] = event
    else:
        tables.looked, tables.looked_ns = event, stamp[0]


def row_key(event: RayEvent) -> str:
    """Which row of which table an event is about."""
    if isinstance(event, RayActorSeen):
        return f"actor:{event.actor_id}"
    if isinstance(event, RayNodeSeen):
        return f"node:{event.node_id}"
    if isinstance(event, RayGroupSeen):
        return f"group:{event.group_id}"
    return f"job:{event.job_id}" if isinstance(event, RayJobSeen) else "looked"
