"""Which view is open first: the one that shows what the verdict speaks of."""

from __future__ import annotations

from collections.abc import Sized

from distwatch.tui.picture import Picture

_BY_CODE = {
    "group.layout_disagrees": "layout",
    "collective.cycle": "waits",
    "p2p.cycle": "waits",
    "process.limit_reached": "devices",
}
_BY_FAMILY = {"group": "groups", "load": "loading", "p2p": "waits", "device": "devices"}
_LINES = 64
"""Of more ranks, a list shows too few at once: then the map is first."""


def first_view(picture: Picture) -> str:
    """The name of the view for a verdict; '' while there is nothing that one could fit."""
    verdict = picture.verdict
    many = len(picture.rank_statuses) > _LINES
    if not verdict.code:
        return "map" if many else ""
    family = verdict.code.partition(".")[0]
    wanted = _BY_CODE.get(verdict.code) or _BY_FAMILY.get(family, "")
    if wanted and has_content(wanted, picture):
        return wanted
    return "map" if many else "ranks"


def has_content(view: str, picture: Picture) -> bool:
    """Whether a view has anything to show now."""
    shows: dict[str, Sized | bool] = {
        "groups": picture.groups,
        "stacks": picture.stacks,
        "findings": picture.shown_findings,
        "loading": picture.loads,
        "layout": picture.layouts,
        "waits": picture.waits.boxes,
    }
    return bool(shows.get(view, True))
