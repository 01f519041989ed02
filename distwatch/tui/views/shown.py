"""The lines that a view shows, after filtering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from distwatch.tui.filters import Filter
from distwatch.tui.picture import Picture
from distwatch.tui.views import devices, events, findings, groups, layout, loading, ranks, stacks
from distwatch.tui.views.line import Line, visible
from distwatch.tui.visible_text import Text


class Shown(NamedTuple):
    """One view, filtered. `total` counts its lines before filtering."""

    lines: list[Line]
    total: int
    heading: Callable[[int], Text] | None
    empty: str


class _Drawn(NamedTuple):
    lines: list[Line]
    empty: str
    heading: Callable[[int], Text] | None = None


_Orders = Mapping[str, ranks.Order]
_VIEWS: dict[str, Callable[[Picture, _Orders, frozenset[str]], _Drawn]] = {
    "ranks": lambda picture, orders, _: _Drawn(
        ranks.lines(picture, orders["ranks"]), ranks.EMPTY, partial(ranks.heading, orders["ranks"])
    ),
    "groups": lambda picture, *_: _Drawn(groups.lines(picture), groups.EMPTY),
    "stacks": lambda picture, _, folded: _Drawn(
        stacks.lines(picture, folded), stacks.EMPTY, partial(stacks.heading, picture)
    ),
    "devices": lambda picture, *_: _Drawn(devices.lines(picture), devices.EMPTY),
    "events": lambda picture, *_: _Drawn(events.lines(picture), events.EMPTY),
    "findings": lambda picture, *_: _Drawn(findings.lines(picture), findings.empty(picture)),
    "loading": lambda picture, orders, _: _Drawn(
        loading.lines(picture, orders["loading"]),
        loading.EMPTY,
        partial(loading.heading, picture, orders["loading"]),
    ),
    "layout": lambda picture, *_: _Drawn(layout.lines(picture), layout.EMPTY),
}


def draw_view(
    name: str, picture: Picture, wanted: Filter, orders: _Orders, folded: frozenset[str]
) -> Shown:
    """The lines of one numbered view; `orders` has an entry for each sorted view."""
    lines, empty, heading = _VIEWS[name](picture, orders, folded)
    shown = visible(lines, wanted, picture)
    return Shown(shown, len(lines), heading if lines else None, empty)
