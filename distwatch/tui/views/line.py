"""The lines of views, drawn only while they are on screen, and the texts of details."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rich.console import Console

from distwatch.tui.filters import Filter
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE
from distwatch.tui.visible_text import Text

_WIDE = 500
"""The width for drawing a line whose words are searched, so that nothing is cut off."""


PART = "\x1f"
"""Separates a line's subject from the number of the line about it."""


class Line(NamedTuple):
    """One line. `draw` takes the width in cells."""

    key: str
    """The subject, `rank:2`: Enter opens its detail, and the cursor stays on it."""
    draw: Callable[[int], Text]
    ranks: tuple[int, ...] | None = None
    """The line's ranks; None: no particular ranks, so no filter on ranks removes it."""
    groups: tuple[str, ...] | None = None
    """The line's groups by name; None: no group."""
    block: str = ""
    """Lines of one block match a filter's words together; '' is alone."""


def lines_about(
    key: str,
    draws: Iterable[Callable[[int], Text]],
    ranks: tuple[int, ...] | None = None,
    groups: tuple[str, ...] | None = None,
    *,
    block: str = "",
) -> list[Line]:
    """Several lines about one subject; the first has the subject's key."""
    return [
        Line(part_key(key, number) if number else key, draw, ranks, groups, block)
        for number, draw in enumerate(draws)
    ]


def title_lines(title: str) -> list[Line]:
    """An empty line and the title of what follows in the same list."""
    return [
        Line(f"title:{title}", lambda width: Text(" " * width)),
        Line(f"title:{title}", lambda width: Text(title.ljust(width), f"bold {BLUE}")),
    ]


def part_key(key: str, part: int | str) -> str:
    """The key of a further line about the same subject."""
    return f"{key}{PART}{part}"


def subject_of(key: str) -> str:
    """The subject of a line, for any of its lines."""
    return key.partition(PART)[0]


def visible(lines: Iterable[Line], wanted: Filter, picture: Picture) -> list[Line]:
    """The lines that a filter accepts."""
    selected = wanted.selected(picture)
    found: list[Line] = []
    with_words: dict[str, bool] = {}
    lines = list(lines)
    for line in lines if wanted.words else ():
        if line.block and not with_words.get(line.block):
            with_words[line.block] = wanted.has_words(line.draw(_WIDE).plain)
    for line in lines:
        if selected is not None and (line.ranks is None or selected.isdisjoint(line.ranks)):
            continue
        groups = line.groups
        if groups is not None and not all(any(map(test, groups)) for test in wanted.pg_tests):
            continue
        if not wanted.words or (
            with_words[line.block] if line.block else wanted.has_words(line.draw(_WIDE).plain)
        ):
            found.append(line)
    return found


def join_lines(lines: Iterable[Text]) -> Text:
    """One text of many lines, without blank lines at the ends."""
    text = Text("\n").join(lines)
    text.rstrip()
    return text


def hanging(text: Text, width: int, console: Console) -> Text:
    """The same text in lines that fit: what does not goes on below, indented further than its line."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        if line.cell_len <= width:
            lines.append(line)
            continue
        deep = len(line.plain) - len(line.plain.lstrip()) + 2
        indent = min(deep, width // 3)
        first, *rest = line.wrap(console, max(8, width - indent))
        lines += [first, *(Text.assemble(" " * indent, more) for more in rest)]
    return Text("\n").join(lines)


def section(title: str, lines: Sequence[Text]) -> list[Text]:
    """A titled part of a detail; nothing where it would be empty."""
    if not lines:
        return []
    return [Text(), Text(title, f"bold {BLUE}"), *(Text.assemble("  ", line) for line in lines)]
