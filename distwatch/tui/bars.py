"""The fixed parts around the views: verdict, header, tabs, prompt."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input, Static

from distwatch.tui.cells import clip, dotted
from distwatch.tui.filters import Filter
from distwatch.tui.keys import VIEWS
from distwatch.tui.opening import has_content
from distwatch.tui.picture import Picture
from distwatch.tui.styles import FAINT, MUTED, YELLOW
from distwatch.tui.verdict import (
    ViewerStatus,
    advice_line,
    coverage_line,
    run_line,
    verdict_line,
    viewer_line,
)
from distwatch.tui.visible_text import Text

_VERDICT_LINES, _ADVICE_LINES = 3, 2
_SPACED_FROM = 130
_FIRST_WITHOUT_TITLE = (
    "layout",
    "loading",
    "devices",
    "groups",
    "events",
    "stacks",
    "findings",
    "waits",
)
"""On a narrow screen the titles of these go first."""


class TopBar(Vertical):
    """The verdict in one line, the advice, the run, its coverage and age."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # A picture may come while the app is being closed, and its widgets are gone from it already.
        self._verdict, self._advice = Static(id="verdict"), Static(id="advice")
        self._run, self._coverage = Static(id="run"), Static(id="coverage")

    def compose(self) -> ComposeResult:
        yield from (self._verdict, self._advice, self._run, self._coverage)

    def show(self, picture: Picture, viewer: ViewerStatus) -> None:
        """Draws the top bar."""
        width = max(20, self.app.size.width - 2)
        advice = clip(advice_line(picture), _ADVICE_LINES, width)
        verdict = clip(verdict_line(picture), _VERDICT_LINES, width)
        self._verdict.update(verdict)
        self._advice.update(advice)
        self._advice.display = bool(advice)
        self.show_age(picture, viewer)

    def show_age(self, picture: Picture, viewer: ViewerStatus) -> None:
        """Draws only what changes while nothing happens: the ages."""
        parts = [viewer_line(viewer, picture), run_line(picture)]
        if viewer.note and not viewer.failure:
            parts.append(Text(viewer.note, FAINT))
        self._run.update(dotted(parts))
        self._coverage.update(coverage_line(picture))


class Tabs(Static):
    """The views with the open one marked, and the active filter."""

    def show(self, view: str, in_detail: bool, picture: Picture, wanted: Filter, hits: str) -> None:
        """Draws the bar."""
        width = self.app.size.width - 2
        end = Text(" detail · Esc", YELLOW) if in_detail else Text()
        if wanted.text and not in_detail:
            end = Text(f" / {wanted.text} ({hits})", YELLOW)
        titled = {each.name for each in VIEWS if has_content(each.name, picture)} | {view}
        for name in ("", *_FIRST_WITHOUT_TITLE):
            titled -= {name} - {view}
            text = self._tabs(view, titled, picture, spaced=width >= _SPACED_FROM)
            if text.cell_len + end.cell_len <= width:
                break
        self.update(text.append_text(end))

    def _tabs(self, view: str, titled: set[str], picture: Picture, *, spaced: bool) -> Text:
        """Views without content, and on narrow screens some others, have only their key."""
        text = Text()
        for each in VIEWS:
            here = each.name == view
            label = f"{each.key} {each.title}" if each.name in titled else each.key
            if each.name == "findings" and picture.shown_findings and each.name in titled:
                label += f"·{len(picture.shown_findings)}"  # with a space, it would look like a key
            style = "bold" if here else MUTED if has_content(each.name, picture) else FAINT
            shown = Text(f"[{label}]" if here else f" {label} " if spaced else f" {label}", style)
            text.append(shown.on(meta={"@click": f"app.view('{each.name}')"}))
            text.append(" " if spaced else "")
        return text


class Prompt(Vertical):
    """One line of input at the bottom, and below it the error in what was typed."""

    def __init__(self) -> None:
        super().__init__(id="prompt")
        self.purpose = ""
        """filter or rank; '' while it is closed."""

    def compose(self) -> ComposeResult:
        line = Input(id="prompt-line", compact=True)
        line.cursor_blink = False
        yield line
        yield Static(id="prompt-says")

    def open(self, purpose: str, value: str, hint: str) -> None:
        """Shows the line, ready to type."""
        self.purpose = purpose
        self.add_class("open")
        self.say("")
        line = self.query_one(Input)
        line.placeholder, line.value = hint, value
        line.focus()

    def close(self) -> None:
        self.purpose = ""
        self.remove_class("open")

    def say(self, complaint: str) -> None:
        """The error in what was typed, '' for none."""
        says = self.query_one("#prompt-says", Static)
        says.update(Text(complaint))
        says.display = bool(complaint)
