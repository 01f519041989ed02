"""Who waits for whom, as something that can be drawn: ranks that do the same are one box."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.diagnosis.facts.user_frame import user_frame, work_frames
from distwatch.diagnosis.facts.wait_for import WaitGraph
from distwatch.diagnosis.facts.waits import Bundle

MOST_BOXES = 40
"""Beyond these, the rest is a number."""


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks with one status at one place that wait for the same and are awaited by the same."""

    number: int
    global_ranks: tuple[int, ...]
    word: str
    doing: str
    where: str
    source: str
    """The line of source there; '' where nobody read it."""
    since_s: float | None
    """The longest of theirs."""
    blamed: bool = False
    depth: int = 0
    """How many waits lie between it and the end of its chain."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks of one box wait for those of another."""

    waiter: int
    """The number of the box that waits."""
    awaited: int
    what: str
    waited_s: float
    overdue: bool = False


class WaitDrawing(msgspec.Struct, frozen=True, kw_only=True):
    """The boxes, those at the ends of the chains first, and the links between them."""

    boxes: tuple[Box, ...] = ()
    links: tuple[Link, ...] = ()
    boxes_left_out: int = 0

    def waiters_of(self, number: int) -> list[Link]:
        """The links to a box, the longest wait first."""
        found = [link for link in self.links if link.awaited == number]
        return sorted(found, key=lambda link: -link.waited_s)


def draw_waits(
    job: Job, graph: WaitGraph, statuses: Sequence[RankStatus], culprits: Set[int]
) -> WaitDrawing:
    """The graph of a job, folded."""
    out: dict[int, set[int]] = {}
    into: dict[int, set[int]] = {}
    for number, bundle in enumerate(graph.bundles):
        for rank in bundle.waiters:
            out.setdefault(rank, set()).add(number)
        for rank in bundle.awaited:
            into.setdefault(rank, set()).add(number)
    folded: dict[tuple[object, ...], list[RankStatus]] = {}
    for status in statuses:
        rank = status.global_rank
        if rank in out or rank in into:
            waits = frozenset(out.get(rank, ())), frozenset(into.get(rank, ()))
            alike = (status.word, status.where, rank in culprits, *waits)
            folded.setdefault(alike, []).append(status)
    groups = list(folded.values())
    of_rank = {s.global_rank: number for number, group in enumerate(groups) for s in group}
    links = _links(graph.bundles, of_rank)
    depths = _depths(len(groups), links)
    order = sorted(
        range(len(groups)),
        key=lambda n: (
            depths[n],
            groups[n][0].global_rank not in culprits,
            groups[n][0].global_rank,
        ),
    )
    return _cut(job, groups, links, depths, order, culprits)


def _links(bundles: Iterable[Bundle], of_rank: Mapping[int, int]) -> list[Link]:
    """One for each two boxes and call; several calls between the same boxes stay apart."""
    found: dict[tuple[int, int, str], Link] = {}
    for bundle in bundles:
        waits: dict[int, float] = {}
        for rank, wait in bundle.waiters.items():
            if rank in of_rank:
                waits[of_rank[rank]] = max(waits.get(of_rank[rank], 0.0), wait.waited_s)
        awaited = {of_rank[rank] for rank in bundle.awaited if rank in of_rank}
        for waiter, waited_s in waits.items():
            for other in awaited - {waiter}:
                found[waiter, other, bundle.what] = Link(
                    waiter=waiter,
                    awaited=other,
                    what=bundle.what,
                    waited_s=waited_s,
                    overdue=bundle.overdue,
                )
    return list(found.values())


def _depths(boxes: int, links: Sequence[Link]) -> list[int]:
    """The waits between each box and the end of its chain; a circle begins at its first box."""
    waiters: dict[int, list[int]] = {}
    for link in links:
        waiters.setdefault(link.awaited, []).append(link.waiter)
    waiting = {link.waiter for link in links}
    depths: dict[int, int] = {}
    for starts in ([n for n in range(boxes) if n not in waiting], range(boxes)):
        for start in starts:
            if start in depths:
                continue
            depths[start] = 0
            todo = deque([start])
            while todo:
                here = todo.popleft()
                for waiter in waiters.get(here, ()):
                    if waiter not in depths:
                        depths[waiter] = depths[here] + 1
                        todo.append(waiter)
    return [depths[number] for number in range(boxes)]


def _cut(
    job: Job,
    groups: Sequence[Sequence[RankStatus]],
    links: Sequence[Link],
    depths: Sequence[int],
    order: Sequence[int],
    culprits: Set[int],
) -> WaitDrawing:
    new = {old: number for number, old in enumerate(order[:MOST_BOXES])}
    boxes = [_box(job, groups[old], new[old], depths[old], culprits) for old in order[:MOST_BOXES]]
    kept = [
        msgspec.structs.replace(link, waiter=new[link.waiter], awaited=new[link.awaited])
        for link in links
        if link.waiter in new and link.awaited in new
    ]
    return WaitDrawing(
        boxes=tuple(boxes), links=tuple(kept), boxes_left_out=len(order) - len(boxes)
    )


def _box(job: Job, group: Sequence[RankStatus], number: int, depth: int, culprits: Set[int]) -> Box:
    ages = [status.since_s for status in group if status.since_s is not None]
    first = group[0]
    return Box(
        number=number,
        global_ranks=tuple(status.global_rank for status in group),
        word=first.word,
        doing=first.doing,
        where=first.where,
        source=_source(job, first.global_rank),
        since_s=max(ages, default=None),
        blamed=first.global_rank in culprits,
        depth=depth,
    )


def _source(job: Job, global_rank: int) -> str:
    process = job.ranks.get(global_rank)
    frame = user_frame(work_frames(process)) if process else None
    return job.state.sources.get((frame.file, frame.line), "").strip() if frame else ""
