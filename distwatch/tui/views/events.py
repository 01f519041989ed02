"""View 5: the timeline, newest at the bottom, on the wall clock."""

from __future__ import annotations

from functools import partial

from distwatch.state import events as ev
from distwatch.state.model import TimelineEntry
from distwatch.state.rank_sets import name_ranks
from distwatch.tui.cells import fit, format_clock
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, FAINT, MUTED, RED, YELLOW
from distwatch.tui.views.line import Line
from distwatch.tui.visible_text import Text
from distwatch.views.event_fold import Folded, Told, fold, named_texts
from distwatch.views.event_text import event_kind

EMPTY = "no events read yet"

_STYLES: dict[type, str] = {
    ev.ExceptionUncaught: RED,
    ev.ExitSeen: RED,
    ev.HookFailed: YELLOW,
    ev.NotObserved: YELLOW,
    ev.FindingsJudged: BLUE,
}


def lines(picture: Picture) -> list[Line]:
    """One line for each event, oldest first; the same event of several ranks is one line."""
    ranks = picture.ranks_by_process()
    told = (
        Told(
            kind=event_kind(entry.event),
            text=text,
            global_rank=ranks.get(entry.process),
            process=entry.process,
            source=entry,
        )
        for entry, text in named_texts(picture.state.timeline)
    )
    return [
        Line(
            key=f"event:{one.source.stream}:{one.source.seq}",
            draw=partial(_draw, one, picture.wall_ns(one.source), _who(picture, one)),
            ranks=tuple(one.global_ranks) or None,
        )
        for one in fold(told)
    ]


def find_entry(picture: Picture, key: str) -> TimelineEntry | None:
    stream, _, seq = key.partition(":")[2].rpartition(":")
    entries = picture.state.timeline
    return next((e for e in entries if e.stream == stream and str(e.seq) == seq), None)


def _who(picture: Picture, one: Folded[TimelineEntry]) -> str:
    if one.global_ranks:
        return name_ranks(one.global_ranks)
    process = picture.state.processes.get(one.source.process)
    return f"pid {process.pid}" if process is not None and process.pid else "observer"


def _draw(one: Folded[TimelineEntry], wall_ns: int, who: str, width: int) -> Text:
    style = _STYLES.get(type(one.source.event), "")
    line = Text.assemble(
        (f"{format_clock(wall_ns)}  ", MUTED),
        fit(Text(who), 12), "  ",
        fit(Text(one.kind, style or FAINT), 20 if width >= 100 else 16), " ",
        (one.text, style),
    )  # fmt: skip
    return fit(line, width)
