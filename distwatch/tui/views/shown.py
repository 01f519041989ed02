"""Which lines a view shows, once the filter has been at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from rich.text import Text

from distwatch.tui.filters import Filter
from distwatch.tui.picture import Picture
from distwatch.tui.views import devices, events, findings, groups, layout, loading, ranks, stacks
from distwatch.tui.views.line import Line, visible


class Shown(NamedTuple):
    """One view, filtered. `total` counts its lines before that."""

    lines: list[Line]
    total: int
    heading: Callable[[int], Text] | None
    empty: str


def draw_view(
    name: str,
    picture: Picture,
    wanted: Filter,
    orders: Mapping[str, ranks.Order],
    folded: frozenset[str],
) -> Shown:
    """The lines of one of the numbered views; `orders` has one for each view that is sorted."""
    heading: Callable[[int], Text] | None = None
    if name == "ranks":
        lines, empty = ranks.lines(picture, orders["ranks"]), ranks.EMPTY
        heading = partial(ranks.heading, orders["ranks"]) if lines else None
    elif name == "groups":
        lines, empty = groups.lines(picture), groups.EMPTY
    elif name == "stacks":
        lines, empty = stacks.lines(picture, folded), stacks.EMPTY
        heading = partial(stacks.heading, picture) if lines else None
    elif name == "devices":
        lines, empty = devices.lines(picture), devices.EMPTY
    elif name == "events":
        lines, empty = events.lines(picture), events.EMPTY
    elif name == "layout":
        lines, empty = layout.lines(picture), layout.EMPTY
    elif name == "loading":
        lines, empty = loading.lines(picture, orders["loading"]), loading.EMPTY
        heading = partial(loading.heading, picture, orders["loading"]) if lines else None
    else:
        lines, empty = findings.lines(picture), findings.EMPTY
    return Shown(visible(lines, wanted, picture), len(lines), heading, empty)
