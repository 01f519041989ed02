"""Which lines a view shows, once the filter has been at them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from rich.text import Text

from distwatch.tui.filters import Filter
from distwatch.tui.picture import Picture
from distwatch.tui.views import devices, events, findings, groups, ranks, stacks
from distwatch.tui.views.line import Line, visible


class Shown(NamedTuple):
    """One view, filtered. `total` counts its lines before that."""

    lines: list[Line]
    total: int
    heading: Callable[[int], Text] | None
    empty: str


def draw_view(
    name: str, picture: Picture, wanted: Filter, order: ranks.Order, folded: frozenset[str]
) -> Shown:
    """The lines of one of the numbered views."""
    heading: Callable[[int], Text] | None = None
    if name == "ranks":
        lines, empty = ranks.lines(picture, order), ranks.EMPTY
        heading = partial(ranks.heading, order) if lines else None
    elif name == "groups":
        lines, empty = groups.lines(picture), groups.EMPTY
    elif name == "stacks":
        lines, empty = stacks.lines(picture, folded), stacks.EMPTY
        heading = partial(stacks.heading, picture) if lines else None
    elif name == "devices":
        lines, empty = devices.lines(picture), devices.EMPTY
    elif name == "events":
        lines, empty = events.lines(picture), events.EMPTY
    else:
        lines, empty = findings.lines(picture), findings.EMPTY
    return Shown(visible(lines, wanted, picture), len(lines), heading, empty)
