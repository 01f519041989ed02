"""Where the boxes of a drawing of waits are on a page: those who wait on the left of those they wait for."""

from __future__ import annotations

from typing import NamedTuple

from distwatch.views.wait_drawing import Box, Link, WaitDrawing

WIDTH, HEIGHT = 300, 84
_ACROSS, _DOWN = 420, 104
_MARGIN = 4
_IN_A_COLUMN = 12
_COLUMNS = 6


class PlacedBox(NamedTuple):
    """A box, and its upper left corner in pixels."""

    box: Box
    x: int
    y: int


class PlacedLink(NamedTuple):
    """An arrow as two SVG paths, and where its words begin."""

    link: Link
    path: str
    head: str
    x: int
    y: int


class Layout(NamedTuple):
    """The whole drawing."""

    width: int
    height: int
    boxes: tuple[PlacedBox, ...]
    links: tuple[PlacedLink, ...]
    boxes_left_out: int


def place_boxes(drawing: WaitDrawing) -> Layout:
    """Columns by depth, the ends of the chains on the right; what has no room is counted."""
    columns: dict[int, list[Box]] = {}
    for box in drawing.boxes:
        columns.setdefault(min(box.depth, _COLUMNS - 1), []).append(box)
    deepest = max(columns, default=0)
    tallest = min(_IN_A_COLUMN, max(map(len, columns.values()), default=0))
    placed: dict[int, PlacedBox] = {}
    for depth, boxes in columns.items():
        shown = boxes[:_IN_A_COLUMN]
        top = (tallest - len(shown)) * _DOWN // 2
        for row, box in enumerate(shown):
            x = _MARGIN + (deepest - depth) * _ACROSS
            placed[box.number] = PlacedBox(box, x, _MARGIN + top + row * _DOWN)
    links = [
        _placed(link, placed[link.waiter], placed[link.awaited])
        for link in drawing.links
        if link.waiter in placed and link.awaited in placed
    ]
    return Layout(
        width=deepest * _ACROSS + WIDTH + 2 * _MARGIN,
        height=max(0, tallest * _DOWN - (_DOWN - HEIGHT)) + 2 * _MARGIN + 24 * _goes_back(links),
        boxes=tuple(placed.values()),
        links=tuple(links),
        boxes_left_out=drawing.boxes_left_out + len(drawing.boxes) - len(placed),
    )


def _goes_back(links: list[PlacedLink]) -> bool:
    return any(" Q " in link.path for link in links)


def _placed(link: Link, waiter: PlacedBox, awaited: PlacedBox) -> PlacedLink:
    """A curve to the right; in a circle, one that goes back below the boxes."""
    if waiter.x < awaited.x:
        x1, y1 = waiter.x + WIDTH, waiter.y + HEIGHT // 2
        x2, y2 = awaited.x - 7, awaited.y + HEIGHT // 2
        middle = (x1 + x2) // 2
        path = f"M {x1} {y1} C {middle} {y1} {middle} {y2} {x2} {y2}"
        head = f"M {x2} {y2 - 5} l 7 5 l -7 5 z"
        return PlacedLink(link, path, head, x1 + 8, y1 - 6)
    x1, y1 = waiter.x + WIDTH // 2, waiter.y + HEIGHT
    x2, y2 = awaited.x + WIDTH // 2, awaited.y + HEIGHT + 7
    low = max(y1, y2) + 30
    path = f"M {x1} {y1} Q {(x1 + x2) // 2} {low} {x2} {y2}"
    head = f"M {x2 - 5} {y2} l 5 -7 l 5 7 z"
    return PlacedLink(link, path, head, (x1 + x2) // 2 + 8, low - 12)
