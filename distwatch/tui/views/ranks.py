"""View 1: one line for each rank, in columns that adapt to the width."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.state.statuses import status_of
from distwatch.tui.cells import (
    doing_cell,
    fit,
    heartbeat_cell,
    rank_cell,
    since_cell,
    state_cell,
    where_cell,
)
from distwatch.tui.picture import Picture
from distwatch.tui.styles import FAINT, MUTED, STRONG, UNKNOWN
from distwatch.tui.views.line import Line
from distwatch.tui.visible_text import Text

EMPTY = "no ranks seen yet: waiting for the first process of the job to report"


class Column(NamedTuple):
    """One column. `grow` is its share of the remaining width."""

    name: str
    title: str
    width: int
    cell: Callable[[RankStatus, bool], Text]
    from_width: int = 0
    """The narrowest view that shows it."""
    grow: int = 0
    right: bool = False


class Order(NamedTuple):
    """The sort order of the ranks."""

    column: str = "rank"
    reverse: bool = False

    def following(self, columns: Iterable[str]) -> Order:
        """Sorted by the next of the columns, not reversed."""
        names = list(columns)
        return Order(names[(names.index(self.column) + 1) % len(names)])


def _plain(text: str) -> Text:
    return Text(text or UNKNOWN, MUTED if text else FAINT)


COLUMNS = (
    Column("rank", "  RANK", 6, lambda s, culprit: rank_cell(s.global_rank, culprit)),
    Column("state", "STATE", 14, lambda s, _: state_cell(s)),
    Column("since", "SINCE", 7, lambda s, _: since_cell(s), right=True),
    Column("beat", "BEAT", 7, lambda s, _: heartbeat_cell(s), from_width=100, right=True),
    Column("doing", "DOING", 16, lambda s, _: doing_cell(s), grow=5),
    Column("where", "WHERE", 12, lambda s, _: where_cell(s), from_width=60, grow=4),
    Column("host", "HOST", 14, lambda s, _: _plain(s.host), from_width=110),
    Column("pid", "PID", 8, lambda s, _: _plain(str(s.pid or "")), from_width=120, right=True),
)
SORTED_BY: dict[str, Callable[[RankStatus], Any]] = {
    "rank": lambda s: s.global_rank,
    "state": lambda s: status_of(s.word).urgency,
    "since": lambda s: -(s.since_s if s.since_s is not None else -1.0),
    "beat": lambda s: -(s.heartbeat_s if s.heartbeat_s is not None else -1.0),
    "doing": lambda s: s.doing,
    "where": lambda s: s.where,
    "host": lambda s: s.host,
    "pid": lambda s: s.pid or 0,
}


def lines(picture: Picture, order: Order) -> list[Line]:
    """One line for each rank, sorted."""
    culprits = picture.culprits
    by = SORTED_BY[order.column]
    ranked = sorted(
        picture.rank_statuses, key=lambda s: (by(s), s.global_rank), reverse=order.reverse
    )
    return [
        Line(
            key=f"rank:{s.global_rank}",
            draw=partial(draw, s, s.global_rank in culprits),
            ranks=(s.global_rank,),
        )
        for s in ranked
    ]


def layout(width: int) -> list[tuple[Column, int]]:
    """The columns that fit, with their widths; together they fill `width`."""
    shown = [column for column in COLUMNS if column.from_width <= width]
    gap = len(_gap(width))
    spare = max(0, width - sum(column.width + gap for column in shown) + gap)
    shares = sum(column.grow for column in shown) or 1
    widths = [(column, column.width + spare * column.grow // shares) for column in shown]
    rest = width - sum(size + gap for _, size in widths) + gap
    return [
        (column, size + (max(0, rest) if column.name == "doing" else 0)) for column, size in widths
    ]


def _gap(width: int) -> str:
    return "  " if width >= 100 else " "


def draw(status: RankStatus, culprit: bool, width: int) -> Text:
    """One rank in `width` cells."""
    cells = [
        fit(column.cell(status, culprit), size, right=column.right)
        for column, size in layout(width)
    ]
    return fit(Text(_gap(width)).join(cells), width)


def heading(order: Order, width: int) -> Text:
    """The column titles; an arrow marks the sorted one."""
    arrow = "▲" if order.reverse else "▼"
    cells = []
    for column, size in layout(width):
        if column.name == order.column:
            # Narrow columns have room for the arrow only in place of their indent.
            title = Text(f"{arrow}{column.title.strip()}".rjust(len(column.title)), STRONG)
        else:
            title = Text(column.title, FAINT)
        cells.append(fit(title, size, right=column.right))
    return fit(Text(_gap(width)).join(cells), width)
