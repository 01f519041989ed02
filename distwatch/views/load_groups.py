"""Loads with the same outcome, shown once with all their ranks."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.loads import LoadStatus


class LoadGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A load that is under way, or all ended loads of one checkpoint with one outcome."""

    global_ranks: tuple[int, ...]
    load: LoadStatus
    """The slowest one."""
    quickest_s: float


def group_loads(loads: Iterable[LoadStatus]) -> list[LoadGroup]:
    """Loads under way one by one, longest still first; then the cut off, the failed, the ended."""
    alike: dict[tuple[object, ...], list[LoadStatus]] = {}
    for load in loads:
        outcome = _outcome(load)
        # The same load by one rank twice is two loads.
        times = 0
        while any(
            other.global_rank == load.global_rank for other in alike.get((*outcome, times), ())
        ):
            times += 1
        alike.setdefault((*outcome, times), []).append(load)
    return sorted((_group(members) for members in alike.values()), key=_urgency)


def _outcome(load: LoadStatus) -> tuple[object, ...]:
    if load.under_way:
        return (load.global_rank, load.step)
    asked = msgspec.json.encode(load.arguments, order="deterministic")
    placed = msgspec.json.encode(load.placement, order="deterministic")
    reached = (load.phase, load.done, load.file) if load.cut_off or load.error else ()
    return (load.call, asked, load.error, load.cut_off, reached, placed)


def _group(members: list[LoadStatus]) -> LoadGroup:
    return LoadGroup(
        global_ranks=tuple(sorted(load.global_rank for load in members)),
        load=max(members, key=lambda load: (load.took_s, -load.global_rank)),
        quickest_s=min(load.took_s for load in members),
    )


def _urgency(group: LoadGroup) -> tuple[int, float, int, int]:
    load = group.load
    order = 0 if load.under_way else 1 if load.cut_off else 2 if load.error else 3
    return (order, -load.still_s, group.global_ranks[0], load.step)
