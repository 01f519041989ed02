"""View t: the last minutes of each rank as a strip, so that the one that fell out of step is seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.state.quantities import seconds
from distwatch.state.statuses import status_of
from distwatch.tui.cells import fit, format_clock, rank_cell
from distwatch.tui.picture import Picture
from distwatch.tui.styles import FAINT, MUTED, STATES, TILES
from distwatch.tui.views.line import Line, part_key, title_lines
from distwatch.tui.visible_text import Text
from distwatch.views.activity_strip import (
    CALL,
    KINDS,
    MOVING,
    NOT_OBSERVED,
    WORK,
    SpanKind,
    cells_of,
    strip_of,
)

EMPTY = "no ranks seen yet"
_NAME = 9
"""Cells before a strip: mark, rank and letter."""
_FEW = 64
"""So many ranks are in the order of their numbers; of more, the odd ones come first."""
_TEXTURES = (NOT_OBSERVED, WORK, MOVING, CALL)
_NEWEST_NS = 180_000_000_000
SECOND_NS = 1_000_000_000


class Window(NamedTuple):
    """What part of time the strips show, by the wall clock."""

    from_ns: int
    to_ns: int
    cursor_ns: int | None = None
    """Replay: the moment that the other views show."""
    job: Job | None = None
    """Replay: the job at the end of the recording, whose strips are shown."""

    def column(self, time_ns: int, width: int) -> int:
        """The cell of a strip of that width in which a time lies."""
        return (time_ns - self.from_ns) * width // max(1, self.to_ns - self.from_ns)


def window_of(picture: Picture, zoom: int) -> Window:
    """The newest three minutes, or less where the run is younger; each zoom step halves them."""
    to_ns = picture.clock_ns or 0
    hosts = picture.state.hosts
    starts = [
        process.started_ns + hosts[process.host].wall_offset_ns
        for process in islice(picture.job.ranks.values(), _FEW)
        if process.started_ns is not None and process.host in hosts
    ]
    length_ns = min(_NEWEST_NS, max(SECOND_NS, to_ns - min(starts, default=to_ns - _NEWEST_NS)))
    return Window(to_ns - max(SECOND_NS, int(length_ns * 2.0**-zoom)), to_ns)


def strip_width(width: int) -> int:
    """The cells of a strip on a line of that width."""
    return max(8, width - _NAME)


def lines(picture: Picture, window: Window) -> list[Line]:
    """A strip for each rank."""
    statuses = picture.rank_statuses
    if len(statuses) > _FEW:
        statuses = tuple(
            sorted(
                statuses,
                key=lambda s: (s.global_rank not in picture.culprits, status_of(s.word).urgency),
            )
        )
    return [
        Line(
            key=f"rank:{s.global_rank}",
            draw=partial(_draw, picture, s, window),
            ranks=(s.global_rank,),
        )
        for s in statuses
    ]


def section(picture: Picture, window: Window) -> list[Line]:
    """The same below another list, with its time."""
    time = Line("title:time", partial(heading, picture, window))
    strips = [line._replace(key=part_key(line.key, "strip")) for line in lines(picture, window)]
    return [*title_lines("the last minutes"), time, *strips]


def _draw(picture: Picture, status: RankStatus, window: Window, width: int) -> Text:
    blamed = status.global_rank in picture.culprits
    name = Text.assemble(
        rank_cell(status.global_rank, blamed), " ",
        (status.letter, f"bold {STATES.get(status.word, '')}"), " ",
    )  # fmt: skip
    return Text.assemble(name, strip_text(picture, status.global_rank, window, strip_width(width)))


def strip_text(picture: Picture, global_rank: int, window: Window, width: int) -> Text:
    """One rank's strip in so many cells."""
    strip = strip_of(window.job or picture.job, global_rank)
    cells = cells_of(strip, window.from_ns, window.to_ns, width)
    text = Text()
    for mark, style in _runs(cells):
        text.append(mark, style)
    if window.cursor_ns is not None:
        column = min(width - 1, window.column(window.cursor_ns, width))
        text.stylize("reverse", column, column + 1)
    return text


def _runs(cells: list[SpanKind]) -> Iterator[tuple[str, str]]:
    """Neighbours of one kind as one piece, with its word where there is room: `▏waits for ranks   ▕`."""
    for kind, run in groupby(cells):
        length = len(list(run))
        if kind in _TEXTURES or length < len(kind.word) + 2:
            yield kind.mark * length, mark_style(kind)
        else:
            yield f"▏{kind.word:<{length - 2}}▕", mark_style(kind)


def mark_style(kind: SpanKind) -> str:
    """The colours of a kind; what says little has no tint."""
    if kind is NOT_OBSERVED:
        return FAINT
    return STATES["running"] if kind is WORK else TILES[kind.tone]


def heading(picture: Picture, window: Window, width: int) -> Text:
    """The time below the strips: seconds before the end, or the clock in a replay."""
    room = strip_width(width)
    marks = [" "] * room
    for share in (0.0, 0.25, 0.5, 0.75):
        at = window.from_ns + int((window.to_ns - window.from_ns) * share)
        label = _label(window, at)
        column = int(room * share)
        if column + len(label) < room - 5:
            marks[column : column + len(label)] = label
    marks[-4:] = "now▕" if window.cursor_ns is None else "end▕"
    if window.cursor_ns is not None:
        marks[max(0, min(room - 1, window.column(window.cursor_ns, room)))] = "▼"
    return fit(Text.assemble((f"{'  RANK':<{_NAME}}", FAINT), ("".join(marks), MUTED)), width)


def _label(window: Window, at_ns: int) -> str:
    if window.cursor_ns is not None:
        return f"▏{format_clock(at_ns)[:8]}"
    return f"▏-{seconds((window.to_ns - at_ns) / 1e9)}"


def legend() -> Text:
    """What the marks mean."""
    text = Text()
    for kind in KINDS:
        text.append(f" {kind.mark} ", mark_style(kind))
        text.append(f" {kind.word}  ", MUTED)
    return text
