"""Ranks against groups: how far each rank is in each group that it belongs to."""

from __future__ import annotations

import msgspec

from distwatch.report.document import Group, Report
from distwatch.state.rank_sets import format_ranks

COLUMNS = 10
ROWS = 64
NOT_A_MEMBER = "·"
NOT_OBSERVED = "?"
NONE_YET = "none"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A rank in a group. `text`: the last collective it has entered, and completed where that differs."""

    text: str
    word: str = ""
    """waits, missing, or nothing."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks that stand alike in all groups."""

    ranks: str
    culprit: bool
    cells: tuple[Cell, ...]


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of one description and disjoint members share a column."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    columns_left_out: int = 0
    rows_left_out: int = 0


def build_matrix(report: Report) -> Matrix:
    """Folds equal ranks into one row; groups in which somebody waits come first."""
    columns = _columns(report.groups)
    shown = sorted(columns, key=lambda title: not any(g.in_flight for g in columns[title]))
    shown = shown[:COLUMNS]
    culprits = {r for f in report.findings if f.role == "root" for r in f.culprit_ranks}
    alike: dict[tuple[bool, tuple[Cell, ...]], list[int]] = {}
    for rank in report.ranks:
        number = rank.global_rank
        cells = tuple(_cell(columns[title], number) for title in shown)
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
    for group in groups:
        named = group.pg_desc and group.pg_desc != "undefined"
        title = group.axis or (group.pg_desc if named else f"group {group.pg_name}")
        held = columns.get(title, [])
        if any(set(other.members) & set(group.members) for other in held):
            title = f"{title} ({group.pg_name})"
        columns.setdefault(title, []).append(group)
    return columns


def _cell(groups: list[Group], rank: int) -> Cell:
    group = next((group for group in groups if rank in group.members), None)
    if group is None:
        return Cell(text=NOT_A_MEMBER)
    numbers = group.progress.get(str(rank))
    waits = group.in_flight and rank in group.entered
    word = "waits" if waits else "missing" if group.in_flight and rank in group.missing else ""
    if numbers is None:
        return Cell(text=NOT_OBSERVED, word=word)
    entered, completed = max(numbers[0], 0), max(numbers[1], 0)
    if not entered:
        return Cell(text=NONE_YET, word=word)
    return Cell(
        text=f"#{entered}" if entered == completed else f"#{entered}, done #{completed}", word=word
    )
