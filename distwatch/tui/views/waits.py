"""View 0: who waits for whom, as boxes below the ranks that they wait for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from distwatch.state.quantities import count_of, seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.state.statuses import status_of
from distwatch.tui.cells import fit, format_age
from distwatch.tui.picture import Picture
from distwatch.tui.styles import CULPRIT, FAINT, GREEN, MUTED, RED, STATES, STRONG, YELLOW
from distwatch.tui.views.line import Line, part_key, title_lines
from distwatch.tui.visible_text import Text
from distwatch.views.wait_drawing import Box, Link

EMPTY = "no rank waits for another rank"
_INDENT = 4
_DEEPEST = 8
"""Deeper boxes are not indented further: a chain of a hundred ranks must still fit."""


def lines(picture: Picture) -> list[Line]:
    """The boxes at the ends of the chains first; below each, those that wait for it."""
    drawing = picture.waits
    found: list[Line] = []
    drawn: set[int] = set()
    for box in drawing.boxes:
        if box.number not in drawn:
            found += [Line(f"rank:{box.global_ranks[0]}", _blank)] if found else []
            found += _tree(picture, box, drawn)
    if drawing.boxes_left_out:
        more = Text(f"… {count_of(drawing.boxes_left_out, 'more group')} of ranks", MUTED)
        found.append(Line("waits:more", partial(fit, more)))
    return found


def section(picture: Picture) -> list[Line]:
    """The same below another list; nothing where nobody waits."""
    if not picture.waits.boxes:
        return []
    return title_lines("who waits for whom") + [
        line._replace(key=part_key(line.key, "waits")) for line in lines(picture)
    ]


def _blank(width: int) -> Text:
    return Text(" " * width)


def _tree(picture: Picture, start: Box, drawn: set[int]) -> Iterator[Line]:
    boxes = {box.number: box for box in picture.waits.boxes}
    # With a list, since chains may be longer than Python's recursion limit.
    todo: list[tuple[Box, Link | None, int]] = [(start, None, 0)]
    while todo:
        box, link, level = todo.pop()
        again = box.number in drawn
        drawn.add(box.number)
        yield from _box_lines(box, link, level, again)
        if not again:
            waiters = picture.waits.waiters_of(box.number)
            todo += [(boxes[one.waiter], one, level + 1) for one in reversed(waiters)]


def _box_lines(box: Box, link: Link | None, level: int, again: bool) -> Iterator[Line]:
    key, ranks = f"rank:{box.global_ranks[0]}", box.global_ranks
    indent = min(level, _DEEPEST) * _INDENT
    if link is not None:
        yield Line(
            part_key(key, f"link{link.awaited}"), partial(_arrow, link, indent - _INDENT), ranks
        )
    if again:
        yield Line(part_key(key, "again"), partial(_again, box, indent), ranks)
        return
    told = [(box.doing, ""), (box.where, STRONG), (box.source, GREEN)]
    yield Line(key, partial(_top, box, indent), ranks)
    for number, (text, style) in enumerate(told):
        if text:
            yield Line(part_key(key, number), partial(_middle, box, text, style, indent), ranks)
    yield Line(part_key(key, "end"), partial(_bottom, box, indent), ranks)


def _edge(box: Box) -> str:
    return RED if box.blamed else STATES.get(box.word, MUTED)


def _top(box: Box, indent: int, width: int) -> Text:
    """`╭─ ▶ rank 2 ───────── r running 42 s ─╮`"""
    edge = _edge(box)
    status = f" {status_of(box.word).letter} {box.word} {format_age(box.since_s)} "
    mark = f"{CULPRIT} " if box.blamed else ""
    room = max(4, width - indent - len(status) - len(mark) - 7)
    name = Text(name_ranks(box.global_ranks))
    name.truncate(room, overflow="ellipsis")
    rule = "─" * max(0, width - indent - len(status) - len(mark) - name.cell_len - 6)
    return Text.assemble(
        " " * indent, ("╭─ ", edge), (f"{mark}{name.plain} ", f"bold {edge}"), (rule, edge),
        (status, STATES.get(box.word, "")), ("─╮", edge),
    )  # fmt: skip


def _middle(box: Box, text: str, style: str, indent: int, width: int) -> Text:
    edge = _edge(box)
    inner = fit(Text(text, style), max(1, width - indent - 4))
    return Text.assemble(" " * indent, ("│ ", edge), inner, (" │", edge))


def _bottom(box: Box, indent: int, width: int) -> Text:
    return Text.assemble(" " * indent, (f"╰{'─' * max(0, width - indent - 2)}╯", _edge(box)))


def _arrow(link: Link, indent: int, width: int) -> Text:
    """`  ▲ all_reduce #5 of default_pg · 42 s, past the deadline`"""
    late = ", past the deadline" if link.overdue else ""
    text = Text.assemble(
        " " * (indent + 1), ("▲ ", STRONG), (link.what, YELLOW), (f" · {seconds(link.waited_s)}", MUTED),
        (late, RED),
    )  # fmt: skip
    return fit(text, width)


def _again(box: Box, indent: int, width: int) -> Text:
    """A box that stands above: a circle, or a rank that waits for several."""
    return fit(Text(f"{' ' * indent}↺ {name_ranks(box.global_ranks)}, shown above", FAINT), width)
