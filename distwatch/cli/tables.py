"""Tables as text and Markdown, fitted to the terminal: nothing is cut without a mark."""

from __future__ import annotations

import shutil
import sys
import textwrap

from distwatch.visible_text import shorten, visible_line

Row = tuple[str, ...]
_GAP = "  "
_INDENT = "    "
_NARROWEST = 8


def terminal_width() -> int | None:
    """Columns of the terminal on stdout; None where stdout is a pipe or a file, which cut nothing."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def lay_out(rows: list[Row], *, markdown: bool = False, width: int | None = None) -> list[str]:
    """Rows as aligned text or a Markdown table; the first row is the heading.

    Args:
        width: where a text table is wider than this, its last column comes below each row, wrapped,
            and cells of the other columns end in `…` where they do not fit.
    """
    if markdown:
        rows = [tuple(visible_line(cell) for cell in row) for row in rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
    return [line for lines in lay_out_rows(rows, width) for line in lines]


def lay_out_rows(rows: list[Row], width: int | None) -> list[list[str]]:
    """The lines of each row of a text table."""
    rows = [tuple(visible_line(cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if width is None or _total(widths) <= width:
        return [[_line(row, widths)] for row in rows]
    widths = _fitted(widths[:-1], width)
    laid = [[_line(rows[0][:-1], widths), f"{_INDENT}{rows[0][-1]}"]]
    for row in rows[1:]:
        below = textwrap.wrap(row[-1], width, initial_indent=_INDENT, subsequent_indent=_INDENT)
        laid.append([_line(row[:-1], widths), *below])
    return laid


def _total(widths: list[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitted(widths: list[int], width: int) -> list[int]:
    """The same, the widest ones narrowed until they fit."""
    widths = list(widths)
    while _total(widths) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _line(row: Row, widths: list[int]) -> str:
    cells = (shorten(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
    return _GAP.join(cells).rstrip()
