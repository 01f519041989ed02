"""Lines joined into texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distwatch.tui.styles import BLUE
from distwatch.tui.visible_text import Text


def join_lines(lines: Iterable[Text]) -> Text:
    """One text of many lines, without blank lines at the ends."""
    text = Text("\n").join(lines)
    text.rstrip()
    return text


def section(title: str, lines: Sequence[Text]) -> list[Text]:
    """A titled part of a detail; nothing where it would be empty."""
    if not lines:
        return []
    return [Text(), Text(title, f"bold {BLUE}"), *(Text.assemble("  ", line) for line in lines)]
