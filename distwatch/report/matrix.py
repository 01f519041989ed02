"""Ranks against groups: each rank's progress in each of its groups."""

from __future__ import annotations

import msgspec

from distwatch.report.document import Group, Report
from distwatch.state.finding import blamed_ranks
from distwatch.state.rank_sets import format_ranks

COLUMNS = 10
ROWS = 64
NOT_A_MEMBER = "·"
NOT_OBSERVED = "?"
NONE_YET = "none"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A rank in a group. `text`: the collective that it is in, or the last one that it was in."""

    text: str
    word: str = ""
    """waits, missing, or nothing."""


_OUTSIDE = Cell(text=NOT_A_MEMBER)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks with equal cells in all groups."""

    ranks: str
    culprit: bool
    cells: tuple[Cell, ...]


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Groups with one description and disjoint members share a column."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    columns_left_out: int = 0
    rows_left_out: int = 0


def build_matrix(report: Report) -> Matrix:
    """Folds equal ranks into one row; groups in which a rank waits come first."""
    columns = _columns(report.groups)
    shown = sorted(columns, key=lambda title: not any(g.in_flight for g in columns[title]))
    shown = shown[:COLUMNS]
    culprits = blamed_ranks(report.findings)
    places = [_places(columns[title]) for title in shown]
    alike: dict[tuple[bool, tuple[Cell, ...]], list[int]] = {}
    for rank in report.ranks:
        number = rank.global_rank
        cells = tuple(place.get(number, _OUTSIDE) for place in places)
        alike.setdefault((number in culprits, cells), []).append(number)
    rows = [
        Row(ranks=format_ranks(ranks), culprit=culprit, cells=cells)
        for (culprit, cells), ranks in alike.items()
    ]
    rows.sort(key=lambda row: not row.culprit)
    return Matrix(
        columns=tuple(shown),
        rows=tuple(rows[:ROWS]),
        columns_left_out=len(columns) - len(shown),
        rows_left_out=max(0, len(rows) - ROWS),
    )


def _columns(groups: list[Group]) -> dict[str, list[Group]]:
    columns: dict[str, list[Group]] = {}
    placed: dict[str, set[int]] = {}
    for group in groups:
        named = group.pg_desc and group.pg_desc != "undefined"
        title = group.axis or (group.pg_desc if named else f"group {group.pg_name}")
        if not placed.get(title, set()).isdisjoint(group.members):
            title = f"{title} ({group.pg_name})"
        columns.setdefault(title, []).append(group)
        placed.setdefault(title, set()).update(group.members)
    return columns


def _places(groups: list[Group]) -> dict[int, Cell]:
    """By rank, its cell in one column: from the first of these groups that it is in."""
    cells: dict[int, Cell] = {}
    for group in groups:
        entered = set(group.entered) if group.in_flight else set()
        missing = set(group.missing) if group.in_flight else set()
        for rank in group.members:
            if rank not in cells:
                word = "waits" if rank in entered else "missing" if rank in missing else ""
                cells[rank] = _cell(group, rank, word)
    return cells


def _cell(group: Group, rank: int, word: str) -> Cell:
    numbers = group.progress.get(str(rank))
    if numbers is None:
        return Cell(text=NOT_OBSERVED, word=word)
    entered, completed = max(numbers[0], 0), max(numbers[1], 0)
    if not entered:
        return Cell(text=NONE_YET, word=word)
    if word == "missing":
        return Cell(text=f"after #{entered}", word=word)
    if entered == completed:
        return Cell(text=f"#{entered}", word=word)
    # It waits in the oldest that has not completed; what it has enqueued since waits behind that.
    queued = f", {entered - completed - 1} queued" if entered > completed + 1 else ""
    return Cell(text=f"#{completed + 1}{queued}", word=word)
