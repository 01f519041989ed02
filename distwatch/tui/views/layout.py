"""View 8: parallel layouts: each rank in its place with its status, and the groups of each axis."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.state.layouts import told, words_of
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import format_ranks
from distwatch.state.statuses import UNOBSERVED
from distwatch.tui.cells import fit
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, CULPRIT, FAINT, MUTED, RED, STATES, STRONG, YELLOW
from distwatch.tui.views.groups import flight
from distwatch.tui.views.line import Line, join_lines, section
from distwatch.tui.visible_text import Text
from distwatch.views.layout_grid import LayoutGrid, Row

EMPTY = (
    "no parallel layout seen: distwatch sees Megatron, SGLang and other frameworks when they initialize, "
    "and device meshes when they are built"
)
_GAP = 2


def lines(picture: Picture) -> list[Line]:
    """A block for each layout: its shape, the grid, and a line for each axis, which Enter opens."""
    found: list[Line] = []
    views = _Views(picture)
    for grid in picture.layouts:
        ranks = tuple(sorted({r for part in grid.axes.values() for group in part for r in group}))
        found.append(Line(f"layout:{grid.name}", partial(_title, grid, len(ranks)), ranks))
        widths = _widths(grid)
        found.append(Line(f"layout:{grid.name}:columns", partial(_columns, grid, widths)))
        for number, row in enumerate(grid.rows):
            members = tuple(rank for cell in row.cells for rank in cell)
            draw = partial(_row, picture, row, widths)
            found.append(Line(f"layout:{grid.name}:row:{number}", draw, members))
        if grid.unplaced:
            text = Text(f"  place not known: ranks {format_ranks(grid.unplaced)}", YELLOW)
            found.append(Line(f"layout:{grid.name}:unplaced", partial(fit, text), grid.unplaced))
        found += [
            Line(axis_key(grid, axis), partial(_axis, views, grid, axis), ranks)
            for axis in grid.axes
        ]
        found.append(Line(f"layout:{grid.name}:end", lambda width: Text()))
    return found


def axis_key(grid: LayoutGrid, axis: str) -> str:
    """The key whose detail is the groups along an axis."""
    return f"axis:{axis}:{grid.name}"


def axis_detail(picture: Picture, key: str) -> Text | None:
    """Every group along an axis: its members with their statuses, and its collective."""
    _, axis, name = key.split(":", 2)
    grid = next((grid for grid in picture.layouts if grid.name == name), None)
    if grid is None or axis not in grid.axes:
        return None
    title = Text.assemble((f"{name} · axis {axis}", STRONG), f"  {words_of(grid.axes[axis])}")
    views = _Views(picture)
    groups = zip(grid.axes[axis], grid.names[axis], strict=True)
    parts = [
        part
        for members, pg_name in groups
        for part in _group(picture, members, views.of(pg_name, axis, members))
    ]
    return join_lines([title, *parts])


def layout_detail(picture: Picture, key: str) -> Text | None:
    """The groups along every axis of a layout."""
    name = key.split(":")[1]
    grid = next((grid for grid in picture.layouts if grid.name == name), None)
    if grid is None:
        return None
    parts = [axis_detail(picture, axis_key(grid, axis)) for axis in grid.axes]
    return Text("\n\n").join(part for part in parts if part is not None)


def _title(grid: LayoutGrid, ranks: int, width: int) -> Text:
    return fit(
        Text.assemble(
            (grid.name, STRONG), (f"  {grid.shape}", BLUE), (f"  {count_of(ranks, 'rank')}", MUTED)
        ),
        width,
    )


def _widths(grid: LayoutGrid) -> tuple[int, ...]:
    """Widths of the places, then of each column: `▶12 w`, several ranks of one place side by side."""
    place = max((len(row.place) for row in grid.rows), default=0)
    columns = [
        max(
            len(title),
            *(sum(len(str(rank)) + 4 for rank in row.cells[number]) for row in grid.rows),
        )
        for number, title in enumerate(grid.columns)
    ]
    return (place, *columns)


def _columns(grid: LayoutGrid, widths: tuple[int, ...], width: int) -> Text:
    line = Text(" " * (2 + widths[0] + _GAP))
    for title, room in zip(grid.columns, widths[1:], strict=True):
        line.append(f"{' ' + title:<{room + _GAP}}", FAINT)
    return fit(line, width)


def _row(picture: Picture, row: Row, widths: tuple[int, ...], width: int) -> Text:
    line = Text.assemble((f"  {row.place:<{widths[0] + _GAP}}", MUTED))
    for cell, room in zip(row.cells, widths[1:], strict=True):
        part = Text()
        for rank in cell:
            part.append_text(_rank(picture, rank))
        if not cell:
            part = Text(" –", FAINT)
        part.pad_right(max(0, room + _GAP - part.cell_len))
        line.append_text(part)
    return fit(line, width)


def _rank(picture: Picture, rank: int) -> Text:
    status = picture.status(rank)
    letter, word = (status.letter, status.word) if status else (UNOBSERVED.letter, UNOBSERVED.word)
    blamed = rank in picture.culprits
    style = STATES.get(word, "")
    return Text.assemble(
        (CULPRIT if blamed else " ", RED),
        (str(rank), f"bold {RED}" if blamed else STRONG),
        (f" {letter} ", f"bold {style}"),
    )


class _Views:
    """torch's groups, found by name or by axis and members."""

    def __init__(self, picture: Picture) -> None:
        self._by_name = {(view.pg_name, view.members): view for view in picture.groups}
        self._by_axis = {(view.axis, view.members): view for view in picture.groups if view.axis}

    def of(self, pg_name: str, axis: str, members: tuple[int, ...]) -> GroupView | None:
        """The group that a framework calls so, or that a mesh has along that axis."""
        ranks = tuple(sorted(members))
        return self._by_name.get((pg_name, ranks)) or self._by_axis.get((axis, ranks))


def _axis(views: _Views, grid: LayoutGrid, axis: str, width: int) -> Text:
    groups = zip(grid.axes[axis], grid.names[axis], strict=True)
    held = [views.of(pg_name, axis, members) for members, pg_name in groups]
    waiting = sum(view is not None and view.in_flight and bool(view.missing) for view in held)
    stuck = f"  {count_of(waiting, 'group')} waiting for ranks" if waiting else ""
    text = Text.assemble(
        (f"  {axis:<8}", STRONG), (words_of(grid.axes[axis]), MUTED), (stuck, YELLOW)
    )
    return fit(text, width)


def _group(picture: Picture, members: tuple[int, ...], view: GroupView | None) -> Iterable[Text]:
    lines = [Text(" ").join(_rank(picture, rank) for rank in members)]
    if view is not None:
        lines.append(Text.assemble((view.title, MUTED), "\n", flight(view)))
    yield from section(f"ranks {told(members)}", lines)
