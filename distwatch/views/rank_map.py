"""Every rank as a cell of a map, grouped by host or by an axis of the layout, for any number of ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from itertools import islice

import msgspec

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.state.rank_sets import format_ranks
from distwatch.state.statuses import Status, status_of
from distwatch.views.layout_grid import LayoutGrid

BY_HOST = "host"
SHARES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""How many ranks a cell may stand for."""
NO_HOST = "host not known"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Neighbours: the worst of their statuses counts, and a blamed rank before all."""

    global_ranks: tuple[int, ...]
    block: str
    """The title of the block that it begins in."""
    word: str
    blamed: bool = False
    alike: bool = True
    """Whether all of them have that status."""

    @property
    def status(self) -> Status:
        return status_of(self.word)

    @property
    def title(self) -> str:
        """`ranks 8-15: the worst is waiting`."""
        several = len(self.global_ranks) > 1
        who = f"rank{'s' if several else ''} {format_ranks(self.global_ranks)}"
        blame = ", blamed by the verdict" if self.blamed else ""
        return f"{who}: {'' if self.alike else 'the worst is '}{self.word}{blame}"


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks of one host, or of one group along an axis."""

    title: str
    cells: tuple[Cell, ...]


class RankMap(msgspec.Struct, frozen=True, kw_only=True):
    """The whole job at a glance."""

    by: str
    share: int
    """How many ranks each cell stands for."""
    blocks: tuple[Block, ...]
    """With several ranks a cell, a single one without a title: its cells may span blocks."""
    period: int
    """How many cells make up a block, where blocks are of one size; else 1."""
    counts: tuple[tuple[str, int], ...]
    """How many ranks have each status, the most urgent first."""


def groupings(layouts: Sequence[LayoutGrid]) -> tuple[str, ...]:
    """What the ranks can be grouped by: their host, or an axis of the first layout."""
    return (BY_HOST, *(layouts[0].axes if layouts else ()))


def map_ranks(
    statuses: Sequence[RankStatus],
    culprits: Set[int],
    layouts: Sequence[LayoutGrid] = (),
    by: str = BY_HOST,
    share: int = 1,
) -> RankMap:
    """The map with `share` ranks a cell; a grouping that the job does not have is by host."""
    by = by if by in groupings(layouts) else BY_HOST
    by_rank = {status.global_rank: status for status in statuses}
    counts = Counter(status.word for status in statuses)
    grouped = _blocks(statuses, layouts, by)
    sizes = {len(ranks) for ranks in grouped.values()}
    even = len(sizes) == 1 and next(iter(sizes)) % share == 0
    parts = list(grouped.items())
    titles = {rank: title for title, ranks in parts for rank in ranks}
    if share > 1:
        parts = [("", [rank for _, ranks in parts for rank in ranks])]
    return RankMap(
        by=by,
        share=share,
        blocks=tuple(
            Block(title=title, cells=tuple(_cells(ranks, by_rank, titles, culprits, share)))
            for title, ranks in parts
        ),
        period=next(iter(sizes)) // share if even else 1,
        counts=tuple(sorted(counts.items(), key=lambda one: status_of(one[0]).urgency)),
    )


def fitting_share(ranks: int, cells: int) -> int:
    """The smallest share with which so many ranks fit into so many cells."""
    return next((share for share in SHARES if share * max(1, cells) >= ranks), SHARES[-1])


def _blocks(
    statuses: Sequence[RankStatus], layouts: Sequence[LayoutGrid], by: str
) -> dict[str, list[int]]:
    if by == BY_HOST:
        return _grouped(statuses, lambda status: status.host or NO_HOST)
    place = {
        rank: f"{by} {number}" for number, group in enumerate(layouts[0].axes[by]) for rank in group
    }
    return _grouped(statuses, lambda status: place.get(status.global_rank, f"no {by}"))


def _grouped(
    statuses: Sequence[RankStatus], title: Callable[[RankStatus], str]
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for status in statuses:
        found.setdefault(title(status), []).append(status.global_rank)
    return found


def _cells(
    ranks: Sequence[int],
    by_rank: Mapping[int, RankStatus],
    titles: Mapping[int, str],
    culprits: Set[int],
    share: int,
) -> Iterator[Cell]:
    rest = iter(ranks)
    while here := tuple(islice(rest, share)):
        blamed = [rank for rank in here if rank in culprits]
        words = {by_rank[rank].word for rank in here}
        counting = {by_rank[rank].word for rank in blamed} or words
        yield Cell(
            global_ranks=here,
            block=titles[here[0]],
            word=min(counting, key=lambda word: status_of(word).urgency),
            blamed=bool(blamed),
            alike=len(words) == 1,
        )
