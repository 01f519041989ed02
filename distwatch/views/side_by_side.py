"""The ways that ranks took, as lines of source beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from distwatch.state.finding import Way
from distwatch.state.rank_sets import name_ranks

WIDTH = 56
_NARROWEST = 24


def side_by_side(ways: Sequence[Way], width: int = WIDTH) -> list[str]:
    """The ways in columns of that width: above each its ranks and place, and `→` at its line.

    Ways that show the same lines share one column.
    """
    columns = [_column(ways)] if _is_one(ways) else [_column([way]) for way in ways]
    width = max(_NARROWEST, width)
    if len(columns) == 1:
        return [line[: 2 * width] for line in columns[0]]
    rows = zip_longest(*columns, fillvalue="")
    return [" │ ".join(f"{cell[:width]:<{width}}" for cell in row).rstrip() for row in rows]


def _is_one(ways: Sequence[Way]) -> bool:
    return len({(way.file, way.line, way.lines) for way in ways}) == 1


def _column(ways: Sequence[Way]) -> list[str]:
    way = ways[0]
    ranks = sorted({rank for one in ways for rank in one.global_ranks})
    place = f"{way.file.rpartition('/')[2]}:{way.line} in {way.function}"
    head = f"{name_ranks(ranks)}: {place}"
    lines = [f"{'→' if n == way.line else ' '}{n:>5}  {text}" for n, text in way.lines]
    return [head, *(lines or [f"→{way.line:>5}  {way.source or 'the source was not read'}"])]
