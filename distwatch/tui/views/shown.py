"""The lines that a view shows, after filtering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from distwatch.tui.filters import Filter
from distwatch.tui.picture import Picture
from distwatch.tui.trends import Trends
from distwatch.tui.views import (
    devices,
    events,
    findings,
    groups,
    layout,
    loading,
    ranks,
    stacks,
    timeline,
    waits,
)
from distwatch.tui.views.line import Line, visible
from distwatch.tui.visible_text import Text

_OVERVIEW = 16
"""So many ranks leave room on the screen for what else is known of them."""


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


class Choices(NamedTuple):
    """What the person has chosen: an order for each sorted view, folded frames, and a stretch of time."""

    orders: Mapping[str, ranks.Order]
    folded: frozenset[str]
    window: timeline.Window
    trends: Trends
    overview: bool = False
    """Whether the ranks, where they are few, have their strips and waits below them."""


def _ranks(picture: Picture, chosen: Choices) -> list[Line]:
    lines = ranks.lines(picture, chosen.orders["ranks"])
    if not chosen.overview or not 0 < len(lines) <= _OVERVIEW:
        return lines
    return [*lines, *timeline.section(picture, chosen.window), *waits.section(picture)]


_VIEWS: dict[str, Callable[[Picture, Choices], _Drawn]] = {
    "ranks": lambda picture, chosen: _Drawn(
        _ranks(picture, chosen),
        ranks.EMPTY,
        partial(ranks.heading, chosen.orders["ranks"]),
    ),
    "groups": lambda picture, _: _Drawn(groups.lines(picture), groups.EMPTY),
    "stacks": lambda picture, chosen: _Drawn(
        stacks.lines(picture, chosen.folded), stacks.EMPTY, partial(stacks.heading, picture)
    ),
    "devices": lambda picture, chosen: _Drawn(devices.lines(picture, chosen.trends), devices.EMPTY),
    "events": lambda picture, _: _Drawn(events.lines(picture), events.EMPTY),
    "findings": lambda picture, _: _Drawn(findings.lines(picture), findings.empty(picture)),
    "loading": lambda picture, chosen: _Drawn(
        loading.lines(picture, chosen.orders["loading"]),
        loading.EMPTY,
        partial(loading.heading, picture, chosen.orders["loading"]),
    ),
    "layout": lambda picture, _: _Drawn(layout.lines(picture), layout.EMPTY),
    "waits": lambda picture, _: _Drawn(waits.lines(picture), waits.EMPTY),
    "timeline": lambda picture, chosen: _Drawn(
        timeline.lines(picture, chosen.window),
        timeline.EMPTY,
        partial(timeline.heading, picture, chosen.window),
    ),
}


def draw_view(name: str, picture: Picture, wanted: Filter, chosen: Choices) -> Shown:
    """The lines of one view."""
    lines, empty, heading = _VIEWS[name](picture, chosen)
    shown = visible(lines, wanted, picture)
    return Shown(shown, len(lines), heading if lines else None, empty)
