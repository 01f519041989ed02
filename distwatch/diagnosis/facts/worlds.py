"""The worlds of a run, which may hold several at the same time, and their processes."""

from __future__ import annotations

from collections import Counter

from distwatch.diagnosis.facts.endpoints import by_endpoint, endpoint_of
from distwatch.state.model import Process, RunState

World = tuple[Process, ...]


def worlds_of(state: RunState) -> list[World]:
    """The processes of the newest restart, by the world that they form or wait for.

    Only a complete world is separate: processes that wait at different endpoints for ranks that come
    to none of them may belong together. The largest world comes first.
    """
    processes = _current(state)
    if not processes:
        return []
    cells = by_endpoint([p for p in processes if p.planned is not None], state)
    if len(cells) > 1:
        complete = [cell for cell in cells if _is_complete(cell)]
        rest = [process for cell in cells if not _is_complete(cell) for process in cell]
        cells = [*complete, rest] if rest else complete
    for process in processes:
        if process.planned is None:
            _cell_of(process, cells).append(process)
    worlds = [tuple(sorted(cell, key=lambda p: p.key)) for cell in cells if cell]
    return sorted(worlds, key=_size)


def _current(state: RunState) -> list[Process]:
    """Ranks, and processes that will become ranks, of the newest restart; else the one process of a job."""
    found = [
        process
        for process in state.processes.values()
        if process.role == "rank"
        and (process.global_rank is not None or process.planned is not None)
    ]
    if not found:
        alone = [process for process in state.processes.values() if _is_alone(state, process)]
        pids = {process.pid for process in alone}
        topmost = [process for process in alone if process.ppid not in pids] or alone
        return [min(topmost, key=_first_alone)] if alone else []
    restart = max(process.identity.restart for process in found)
    return sorted((p for p in found if p.identity.restart == restart), key=lambda p: p.key)


def _is_alone(state: RunState, process: Process) -> bool:
    """Whether it may be the one process of a job whose launcher sets no variables."""
    if process.role == "rank" or (process.instrumented and process.role == "other"):
        return True
    seen = process.outside.seen
    # In Ray the driver and idle workers enter the run, too, and are none of its ranks.
    is_in_ray = any(host.ray.actors for host in state.hosts.values())
    return process.role == "other" and seen is not None and seen.instrumented and not is_in_ray


def is_lone_program(process: Process) -> bool:
    """Whether it is the one process of a run, no rank, and seen only from outside."""
    return process.role == "other" and process.global_rank is None and not process.instrumented


def _first_alone(process: Process) -> tuple[bool, bool, bool, int, str]:
    return (
        process.role != "rank", not process.instrumented, process.ended_ns is not None,
        process.started_ns or 0, process.key,
    )  # fmt: skip


def _is_complete(cell: list[Process]) -> bool:
    plans = [process.planned for process in cell if process.planned is not None]
    sizes = Counter(plan.world_size for plan in plans if plan.world_size)
    if not sizes:
        return False
    size = max(sizes, key=lambda size: (sizes[size], size))
    come = {plan.global_rank for plan in plans}
    return all(rank in come for rank in range(size))


def _cell_of(process: Process, cells: list[list[Process]]) -> list[Process]:
    """The cell of a process without a plan: that of its environment's endpoint."""
    place = endpoint_of(process)
    for cell in cells:
        if place.known and any(endpoint_of(other) == place for other in cell):
            return cell
    # Otherwise it may be a rank that an incomplete world waits for.
    waiting = [cell for cell in cells if not _is_complete(cell)]
    if not waiting:
        if cells and not place.known:
            return cells[0]
        cells.append([])
        return cells[-1]
    return waiting[0]


def _size(world: World) -> tuple[int, int, str]:
    living = sum(process.ended_ns is None for process in world)
    return -living, -len(world), world[0].key


def ranks_of(world: World) -> dict[int, Process]:
    """The process that counts for each global rank."""
    found = [process for process in world if process.global_rank is not None]
    if not found:
        return {0: world[0]} if world else {}
    ranks: dict[int, Process] = {}
    for process in sorted(found, key=_preference):
        if process.global_rank is not None:
            ranks[process.global_rank] = process
    return dict(sorted(ranks.items()))


def claims_of(world: World) -> dict[int, list[Process]]:
    """By global rank, all processes that planned to be that rank."""
    claims: dict[int, list[Process]] = {}
    for process in world:
        said = process.planned.global_rank if process.planned else None
        if said is not None:
            claims.setdefault(said, []).append(process)
    return claims


def _preference(process: Process) -> tuple[bool, bool, int, str]:
    return (process.instrumented, process.ended_ns is None, process.started_ns or 0, process.key)


def size_of(ranks: dict[int, Process]) -> int | None:
    """What most ranks say; on a tie what rank 0 says, to which the others connect."""
    sizes = Counter(p.world_size for p in ranks.values() if p.world_size)
    word = ranks[0].world_size if 0 in ranks else None
    return max(sizes, key=lambda size: (sizes[size], size == word, size)) if sizes else None
