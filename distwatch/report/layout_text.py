"""Parallel layouts as lines of text: a grid with the ranks' statuses, and the groups of each axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distwatch.state.layouts import words_of
from distwatch.views.layout_grid import LayoutGrid, states_in

ROWS = 64


def grid_lines(grid: LayoutGrid, letters: Mapping[int, str], most: int = ROWS) -> Iterable[str]:
    """`dp 0 · pp 1   2 w  3 F`, below the column names.

    Args:
        letters: the letter of each rank's status.
        most: the largest number of rows shown.
    """
    texts = states_in(grid, letters)
    places = [row.place for row in grid.rows]
    first = max(map(len, places), default=0)
    widths = [
        max(len(text) for text in (title, *(row[number] for row in texts)))
        for number, title in enumerate(grid.columns)
    ]
    if any(grid.columns):
        yield _line("", grid.columns, first, widths)
    for place, row in list(zip(places, texts, strict=True))[:most]:
        yield _line(place, row, first, widths)
    if len(texts) > most:
        yield f"… {len(texts) - most} more rows …"
    yield ""
    for axis, partition in grid.axes.items():
        yield f"{axis:<{max(first, 4)}}  {words_of(partition)}"


def _line(place: str, cells: Iterable[str], first: int, widths: list[int]) -> str:
    told = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{place:<{first}}  {told}".rstrip()
