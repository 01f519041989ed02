"""The verdict and the ranks as plain text, for pipes and where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from distwatch.state.quantities import count_of
from distwatch.tui.picture import Picture, take_picture
from distwatch.tui.styles import MUTED
from distwatch.tui.verdict import advice_line, coverage_line, run_line, verdict_line
from distwatch.tui.views import ranks
from distwatch.tui.visible_text import Text

_MOST_RANKS = 100


def render_once(
    state: RunState,
    width: int,
    *,
    run_id: str = "",
    color: bool = False,
    findings: list[Finding] | None = None,
) -> str:
    """One screen of text, ending in a newline. No ANSI codes unless `color`.

    Beyond 100 ranks, only the worst ones are shown, with the number of the others.

    Args:
        findings: the verdict on that state, where the caller has it.
    """
    picture = take_picture(state, run_id or state.run_id, findings)
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(40, width),
        force_terminal=color,
        color_system="truecolor" if color else None,
        no_color=not color,
        legacy_windows=False,
        highlight=False,
        _environ={},
    )
    for text in _screen(picture, max(40, width)):
        console.print(text)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _screen(picture: Picture, width: int) -> list[Text]:
    texts = [verdict_line(picture)]
    if advice := advice_line(picture):
        texts.append(advice)
    texts += [run_line(picture), coverage_line(picture)]
    if not picture.rank_statuses:
        return [*texts, Text(ranks.EMPTY, MUTED)]
    many = len(picture.rank_statuses) > _MOST_RANKS
    order = ranks.Order("state") if many else ranks.Order()
    lines = ranks.lines(picture, order)
    texts += [Text(), ranks.heading(order, width)]
    texts += [line.draw(width) for line in lines[:_MOST_RANKS]]
    if many:
        texts.append(Text(f"… and {count_of(len(lines) - _MOST_RANKS, 'more rank')}", MUTED))
    return texts
