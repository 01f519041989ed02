"""View 5: the timeline, newest at the bottom, on the wall clock."""

from __future__ import annotations

from functools import partial

from distwatch.state import events as ev
from distwatch.state.model import TimelineEntry
from distwatch.tui.cells import fit, format_clock
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, FAINT, MUTED, RED, YELLOW
from distwatch.tui.views.line import Line
from distwatch.tui.visible_text import Text
from distwatch.views.event_text import event_kind, event_text

EMPTY = "no events read yet"

_STYLES: dict[type, str] = {
    ev.ExceptionUncaught: RED,
    ev.ExitSeen: RED,
    ev.HookFailed: YELLOW,
    ev.NotObserved: YELLOW,
    ev.FindingsJudged: BLUE,
}


def lines(picture: Picture) -> list[Line]:
    """One line for each event, oldest first."""
    ranks = picture.ranks_by_process()
    return [
        Line(
            key=f"event:{entry.stream}:{entry.seq}",
            draw=partial(_draw, entry, picture.wall_ns(entry), _who(picture, entry, ranks)),
            ranks=(ranks[entry.process],) if entry.process in ranks else None,
        )
        for entry in picture.state.timeline
    ]


def find_entry(picture: Picture, key: str) -> TimelineEntry | None:
    stream, _, seq = key.partition(":")[2].rpartition(":")
    entries = picture.state.timeline
    return next((e for e in entries if e.stream == stream and str(e.seq) == seq), None)


def _who(picture: Picture, entry: TimelineEntry, ranks: dict[str, int]) -> str:
    if entry.process in ranks:
        return f"rank {ranks[entry.process]}"
    process = picture.state.processes.get(entry.process)
    return f"pid {process.pid}" if process is not None and process.pid else "observer"


def _draw(entry: TimelineEntry, wall_ns: int, who: str, width: int) -> Text:
    kind, text = event_kind(entry.event), event_text(entry.event)
    line = Text.assemble(
        (f"{format_clock(wall_ns)}  ", MUTED),
        fit(Text(who), 9), "  ",
        fit(Text(kind, _STYLES.get(type(entry.event), FAINT)), 20 if width >= 100 else 16), " ",
        (text, _STYLES.get(type(entry.event), "")),
    )  # fmt: skip
    return fit(line, width)
