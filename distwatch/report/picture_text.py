"""The report's drawings as plain text, for a comment on an issue: who waits for whom, and strips of time."""

from __future__ import annotations

from collections.abc import Iterator

from distwatch.report.pictures import Pictures
from distwatch.state.quantities import count_of, seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.views.activity_strip import KINDS
from distwatch.views.wait_drawing import Box, Link, WaitDrawing
from distwatch.visible_text import shorten

_BOXES = 5
_STRIPS = 6
_NAME = 24
_WIDE = 110
_EVERY = 2
"""One of so many cells of a strip: a comment is narrower than a page."""


def waits_text(drawing: WaitDrawing) -> Iterator[str]:
    """The ends of the chains first; below each, indented, those that wait for it."""
    boxes = {box.number: box for box in drawing.boxes}
    drawn: set[int] = set()
    for start in drawing.boxes:
        todo: list[tuple[Box, Link | None, int]] = [(start, None, 0)]
        while todo and len(drawn) < _BOXES:
            box, link, depth = todo.pop()
            if box.number not in drawn:
                drawn.add(box.number)
                yield from _box(box, link, depth)
                waiters = reversed(drawing.waiters_of(box.number))
                todo += [(boxes[one.waiter], one, depth + 1) for one in waiters]
    left = len(drawing.boxes) - len(drawn) + drawing.boxes_left_out
    if left:
        yield f"… {count_of(left, 'more group')} of ranks"


def _box(box: Box, link: Link | None, depth: int) -> Iterator[str]:
    """`└─ ranks 0-1,3: waiting 42 s in all_reduce #5 of default_pg, past the deadline`, and where."""
    lead = f"{'   ' * (depth - 1)}└─ " if depth else ""
    mark = "▶ " if box.blamed else ""
    since = f" {seconds(box.since_s)}" if box.since_s is not None else ""
    late = ", past the deadline" if link is not None and link.overdue else ""
    doing = f" in {link.what}{late}" if link is not None else f": {box.doing}"
    yield shorten(
        f"{lead}{mark}{shorten(name_ranks(box.global_ranks), 40)}, {box.word}{since}{doing}", _WIDE
    )
    source = f"  {box.source}" if box.source else ""
    if box.where:
        yield shorten(f"{' ' * len(lead)}   {box.where}{source}", _WIDE)


def strips_text(pictures: Pictures) -> Iterator[str]:
    """A line for each strip, and the meaning of the marks that are in them."""
    rows = pictures.strips[:_STRIPS]
    if not rows:
        return
    yield f"the last {seconds(pictures.window_s)}, up to the newest event:"
    marks: set[str] = set()
    for row in rows:
        strip = "".join(one.kind.mark * one.cells for one in row.stretches)[::_EVERY]
        name = f"{'▶ ' if row.blamed else ''}{name_ranks(row.global_ranks)}"
        marks |= set(strip)
        yield f"{shorten(name, _NAME):<{_NAME}} {strip}"
    more = len(pictures.strips) - len(rows) + pictures.strips_left_out
    if more:
        yield f"… {count_of(more, 'more strip')}"
    yield ", ".join(f"{kind.mark} {kind.word}" for kind in KINDS if kind.mark in marks)
