"""The tables of a Ray cluster in a run's state: the newest sighting of each row."""

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
_ROWS = {
    RayActorSeen: ("actors", "actor_id"),
    RayNodeSeen: ("nodes", "node_id"),
    RayGroupSeen: ("groups", "group_id"),
    RayJobSeen: ("jobs", "job_id"),
}
RAY_EVENTS = (RayActorSeen, RayNodeSeen, RayGroupSeen, RayJobSeen, RayLooked)


class RayTables(msgspec.Struct, kw_only=True):
    """What the observer of one host read. Only `fold_ray` changes it."""

    actors: dict[str, RayActorSeen] = {}
    nodes: dict[str, RayNodeSeen] = {}
    groups: dict[str, RayGroupSeen] = {}
    jobs: dict[str, RayJobSeen] = {}
    looked: RayLooked | None = None
    looked_ns: int = 0
    """When it last read the tables, by its host's clock; 0: never."""
    stamps: dict[str, tuple[int, str, int]] = {}


def fold_ray(tables: RayTables, stamp: tuple[int, str, int], event: RayEvent) -> None:
    """Takes over a row, unless a newer sighting of it is known."""
    table, id_field = _ROWS.get(type(event), ("looked", ""))
    row = str(getattr(event, id_field, ""))
    key = f"{table}:{row}"
    if tables.stamps.get(key, (0, "", 0)) >= stamp:
        return
    tables.stamps[key] = stamp
    if isinstance(event, RayLooked):
        tables.looked, tables.looked_ns = event, stamp[0]
    else:
        getattr(tables, table)[row] = event
