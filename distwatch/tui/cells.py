"""Single cells: one fact → a few styled characters. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.state.quantities import bytes_text, seconds
from distwatch.tui.styles import CULPRIT, FAINT, MUTED, RED, STATES, STRONG, UNKNOWN, YELLOW
from distwatch.tui.visible_text import Text

_SHARE_CELLS = 10


def format_age(age_s: float | None) -> str:
    """`4.2 s`, `12 min`; `–` where it was not observed."""
    return UNKNOWN if age_s is None else seconds(age_s)


def format_bytes(count: int | None) -> str:
    """`1.5 GiB`; `–` where it was not observed."""
    return bytes_text(count, UNKNOWN, 100)


def format_clock(wall_ns: int) -> str:
    """Local wall clock to the millisecond: `14:03:07.250`."""
    return datetime.fromtimestamp(wall_ns // 1_000_000 / 1000).time().isoformat("milliseconds")


def dotted(parts: Iterable[Text]) -> Text:
    """The parts, with faint dots between them."""
    line = Text()
    for part in parts:
        if line:
            line.append(" · ", FAINT)
        line.append_text(part)
    return line


def clip_middle(text: str, width: int) -> str:
    """A path or an address in this many cells: both ends say more than the middle."""
    if cell_len(text) <= width:
        return text
    head = width // 4
    tail = width - head - 1
    # Wide characters take two cells each.
    start = set_cell_size(text, head).rstrip()
    end = text[-tail:] if tail > 0 else ""
    while cell_len(end) > tail:
        end = end[1:]
    return f"{start}…{end}"


def clip(text: Text, lines: int, width: int) -> Text:
    """As much as fits into this many wrapped lines, with an ellipsis where it is cut."""
    clipped = text.copy()
    # Words that do not break leave some cells empty on each line but the last.
    clipped.truncate(max(width, lines * width - 10 * (lines - 1)), overflow="ellipsis")
    return clipped


def rank_cell(global_rank: int, culprit: bool) -> Text:
    """The rank's number, marked where a root finding blames the rank."""
    if culprit:
        return Text.assemble((CULPRIT, RED), (f"{global_rank:>5}", f"bold {RED}"))
    return Text(f" {global_rank:>5}", STRONG)


def state_cell(status: RankStatus) -> Text:
    """Letter and word: colour only repeats them."""
    style = STATES.get(status.word, "")
    return Text.assemble((status.letter, f"bold {style}"), " ", (status.word, style))


def since_cell(status: RankStatus) -> Text:
    """How long it has not moved."""
    style = YELLOW if status.blocked else MUTED
    return Text(format_age(status.since_s), style)


def heartbeat_cell(status: RankStatus) -> Text:
    """The age of the agent's last heartbeat, or why there is none."""
    if status.process is None or not status.instrumented:
        return Text(UNKNOWN, FAINT)
    late = status.heartbeat_s is not None and status.heartbeat_s > 3
    return Text(format_age(status.heartbeat_s), YELLOW if late else MUTED)


def doing_cell(status: RankStatus) -> Text:
    """What the rank is doing, in a clause."""
    return Text(status.doing or UNKNOWN, "" if status.doing else FAINT)


def where_cell(status: RankStatus) -> Text:
    """`train.py:42 in step`, with the file and line in bold."""
    if not status.where:
        return Text(UNKNOWN, FAINT)
    place, _, function = status.where.partition(" in ")
    return Text.assemble(place, (f" in {function}" if function else "", MUTED))


def share_cell(used: int | None, total: int | None) -> Text:
    """A bar with its numbers: `████░░░░░░ 12.1 of 31.3 GiB`."""
    if not total or used is None:
        return Text(f"{format_bytes(used)} of {format_bytes(total)}", MUTED)
    share = min(1.0, max(0.0, used / total))
    filled = round(share * _SHARE_CELLS)
    style = RED if share > 0.95 else YELLOW if share > 0.85 else MUTED
    return Text.assemble(
        ("█" * filled, style),
        ("░" * (_SHARE_CELLS - filled), FAINT),
        f" {format_bytes(used)} of {format_bytes(total)} ({share:.0%})",
    )


def fit(text: Text, width: int, *, right: bool = False) -> Text:
    """Exactly `width` cells, cut with an ellipsis or padded."""
    fitted = text.copy()
    fitted.truncate(width, overflow="ellipsis", pad=not right)
    if right:
        fitted.pad_left(max(0, width - fitted.cell_len))
    return fitted
