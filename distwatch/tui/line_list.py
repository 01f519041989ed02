"""The list in which every view is drawn: with the line API, 10,000 rows cost as much as one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from distwatch.tui.styles import CURSOR
from distwatch.tui.views.line import Line
from distwatch.tui.visible_text import Text

Heading = Callable[[int], Text]
_GUTTER = 2


class LineList(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines with a cursor that stays on its subject, wherever that moves."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"line-list--cursor", "line-list--empty"}

    class Opened(Message):
        """The line under the cursor was clicked a second time."""

    class Moved(Message):
        """The cursor is on another line."""

    def __init__(self, *, follow: bool = False, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._lines: Sequence[Line] = ()
        self._heading: Heading | None = None
        self._empty = ""
        self._cursor = 0
        self._follow = follow
        """Whether the cursor follows the last line while it is there."""

    @property
    def lines(self) -> Sequence[Line]:
        return self._lines

    @property
    def selected(self) -> Line | None:
        """The line under the cursor."""
        return self._lines[self._cursor] if self._cursor < len(self._lines) else None

    def show(self, lines: Sequence[Line], heading: Heading | None, empty: str) -> None:
        """Replaces the lines; the cursor follows its line's key."""
        before = self.selected
        at_end = self._follow and self._cursor >= len(self._lines) - 1
        self._lines, self._heading, self._empty = lines, heading, empty
        place = self._cursor
        if at_end:
            place = len(lines) - 1
        elif before is not None and not self._is_at(place, before.key):
            keys = (n for n, line in enumerate(lines) if line.key == before.key)
            place = next(keys, place)
        self._cursor = max(0, min(place, len(lines) - 1))
        self.virtual_size = Size(self.size.width, len(lines) + self._top)
        if at_end or (before is not None and place != self._cursor):
            self.call_after_refresh(self._reveal)
        self.refresh()

    def select(self, key: str) -> bool:
        """Moves the cursor to the line with that key; False where there is none."""
        place = next((n for n, line in enumerate(self._lines) if line.key == key), None)
        if place is None:
            return False
        self._go(place)
        return True

    def move(self, steps: int) -> None:
        """Moves the cursor by lines, at most to the ends."""
        self._go(self._cursor + steps)

    def page(self, direction: int) -> None:
        """Moves the cursor by a screen."""
        self._go(self._cursor + direction * max(1, self._height - 1))

    def edge(self, direction: int) -> None:
        """Moves the cursor to the first or last line."""
        self._go(0 if direction < 0 else len(self._lines) - 1)

    @property
    def _top(self) -> int:
        return 1 if self._heading is not None else 0

    @property
    def _height(self) -> int:
        return max(1, self.scrollable_content_region.height - self._top)

    def _is_at(self, place: int, key: str) -> bool:
        return 0 <= place < len(self._lines) and self._lines[place].key == key

    def _go(self, place: int) -> None:
        self._cursor = max(0, min(place, len(self._lines) - 1))
        self._reveal()
        self.refresh()
        self.post_message(self.Moved())

    def _reveal(self) -> None:
        if not self.size:
            return  # `on_resize` comes back: only then it is known what is out of sight
        top = self.scroll_offset.y
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True, immediate=True)
        elif self._cursor >= top + self._height:
            self.scroll_to(
                y=self._cursor - self._height + 1, animate=False, force=True, immediate=True
            )

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        room = max(1, width - _GUTTER)
        if not self._lines:
            text = Text(self._empty if y == 1 else "")
            return self._strip("", text, width, "line-list--empty")
        if self._heading is not None and y == 0:
            return self._strip("", self._heading(room), width, None)
        place = y - self._top + self.scroll_offset.y
        if not 0 <= place < len(self._lines):
            return Strip.blank(width, self.rich_style)
        here = place == self._cursor
        text = self._lines[place].draw(room)
        return self._strip(
            CURSOR if here else "", text, width, "line-list--cursor" if here else None
        )

    def _strip(self, mark: str, text: Text, width: int, component: str | None) -> Strip:
        style = self.rich_style
        if component is not None:
            style += self.get_component_rich_style(component, partial=True)
        line = Text.assemble((f"{mark:<{_GUTTER}}", "bold"), text)
        line.truncate(width, overflow="ellipsis")
        strip = Strip(list(line.render(self.app.console)))
        return strip.apply_style(style).extend_cell_length(width, style).crop(0, width)

    def on_click(self, event: events.Click) -> None:
        place = event.y - self._top + self.scroll_offset.y
        if not 0 <= place < len(self._lines) or event.y < self._top:
            return
        if place == self._cursor:
            self.post_message(self.Opened())
        self._go(place)

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._lines) + self._top)
        self._reveal()
