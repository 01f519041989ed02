"""The help page, made from the key table."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from distwatch.state.statuses import LETTERS
from distwatch.tui.keys import VIEWS, sections
from distwatch.tui.styles import BLUE, CULPRIT, MUTED, STATES, STRONG, UNKNOWN
from distwatch.tui.views.timeline import legend
from distwatch.tui.visible_text import Text

_FILTERS = (
    ("state=waiting", "or by letter: state=w; also state!=running"),
    ("pg=dp3  pg~dp", "member of a process group, by name or description"),
    ("host~node01", "on a host whose name contains this"),
    ("rank=0-3,7  rank>16", "these ranks"),
    ("age>30s  age<2m", "no progress for this long"),
    ("from_pretrained", "plain words: lines that contain all of them"),
)


def help_text() -> Text:
    """Keys, the filter language, and the meaning of the letters."""
    views = {view.title: view.help for view in VIEWS}
    text = Text()
    for title, keys in sections().items():
        text.append(f"{title}\n", f"bold {BLUE}")
        for key in keys:
            text.append(f"  {key.shown:<8}", STRONG)
            text.append(f"{key.label:<12}")
            text.append(f"{views.get(key.label, key.help)}\n", MUTED)
    text.append("Filter terms (all must match)\n", f"bold {BLUE}")
    for example, meaning in _FILTERS:
        text.append(f"  {example:<20}", STRONG)
        text.append(f"{meaning}\n", MUTED)
    text.append("Letters and marks\n ", f"bold {BLUE}")
    for word, letter in LETTERS.items():
        text.append(f" {letter}", f"bold {STATES[word]}")
        text.append(f" {word} ", MUTED)
    text.append("\nStrips of the timeline\n ", f"bold {BLUE}").append_text(legend())
    text.append(
        f"\n  {CULPRIT} blamed by the verdict   {UNKNOWN} not observed (never a zero)\n", MUTED
    )
    text.append("  distwatch only looks: nothing here stops, signals or changes the job.", MUTED)
    return text


class HelpScreen(ModalScreen[None]):
    """Keys and letters on one page."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Close", key_display="Esc")
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help-page") as page:
            page.border_title = "distwatch · help"
            page.border_subtitle = "Esc closes"
            yield Static(help_text())
