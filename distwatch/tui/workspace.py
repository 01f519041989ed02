"""The middle of the screen: the open view, and from 120 columns on the pane of what is selected in it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import ContentSwitcher, Static

from distwatch.tui.filters import Filter
from distwatch.tui.keys import VIEWS
from distwatch.tui.line_list import LineList
from distwatch.tui.picture import Picture
from distwatch.tui.rank_map import RankMapView
from distwatch.tui.trends import Trends
from distwatch.tui.views import loading, map, ranks, timeline  # noqa: A004
from distwatch.tui.views.detail import detail
from distwatch.tui.views.line import hanging, subject_of
from distwatch.tui.views.rank_pane import rank_pane
from distwatch.tui.views.shown import Choices, draw_view
from distwatch.tui.visible_text import Text

PANES_FROM = 120
"""The narrowest screen with a pane beside the list."""
_BESIDE_TEXT = 4
"""Columns of the pane or the detail for its border, its padding and the scrollbar."""
_SORTED_BY = {"ranks": tuple(ranks.SORTED_BY), "loading": tuple(loading.SORTED_BY)}


class DetailPage(VerticalScroll, can_focus=True, inherit_bindings=False):
    """The page that Enter opens, and the pane beside a list."""


class Workspace(Horizontal):
    """Knows which view is open and what is chosen in it; draws a picture when it is told to."""

    def __init__(self, trends: Trends) -> None:
        super().__init__(id="workspace")
        self._trends = trends
        self.view = VIEWS[0].name
        self.detail_key: str | None = None
        self.wanted = Filter()
        self._orders = {"ranks": ranks.Order(), "loading": loading.FIRST_ORDER}
        self._folded: frozenset[str] = frozenset()
        self._with_pane = True
        self.touched = False
        """Whether the person has chosen a view or a line."""
        self._picture: Picture | None = None
        self._window = timeline.Window(0, 1)

    def compose(self) -> ComposeResult:
        self._map = RankMapView(id="map")
        self._lists = {
            v.name: LineList(id=v.name, follow=v.name == "events") for v in VIEWS if v.name != "map"
        }
        self._detail_text, self._pane_text = Static(id="detail-text"), Static(id="pane-text")
        with ContentSwitcher(id="views", initial=self.view) as self._switcher:
            yield from self._lists.values()
            yield self._map
            with DetailPage(id="detail") as self._page:
                yield self._detail_text
        with DetailPage(id="pane") as self._pane:
            yield self._pane_text

    # ---- drawing ---------------------------------------------------------------------------

    def draw(self, picture: Picture, window: timeline.Window) -> str:
        """Draws the open view and what is beside it; how many of its lines are shown, as text."""
        self._picture, self._window = picture, window
        self._pane.display = self.has_pane
        if self.detail_key is not None:
            told = detail(picture, self.detail_key)
            self._detail_text.update(self._fitted(told, self.app.size.width - _BESIDE_TEXT))
        if self.view == "map":
            return self._draw_map(picture)
        overview = self.has_pane and not self.wanted.text
        chosen = Choices(self._orders, self._folded, window, self._trends, overview)
        shown = draw_view(self.view, picture, self.wanted, chosen)
        none = f"no line matches the filter {self.wanted.text!r}; Esc clears it"
        empty = none if shown.total else shown.empty
        self._lists[self.view].show(shown.lines, shown.heading, empty)
        self.draw_pane()
        return f"{len(shown.lines)} of {shown.total}"

    def _draw_map(self, picture: Picture) -> str:
        selected = self.wanted.selected(picture)
        none = f"no rank matches the filter {self.wanted.text!r}; Esc clears it"
        self._map.show(picture, selected, none if self.wanted.text else map.EMPTY)
        self.draw_pane()
        total = len(picture.rank_statuses)
        return f"{total if selected is None else len(selected)} of {total}"

    def draw_pane(self) -> None:
        """Draws the pane of what is under the cursor."""
        key, picture = self.selected_key, self._picture
        if not self.has_pane or picture is None:
            return
        subject = subject_of(key or "")
        text = None
        room = self.app.size.width * 2 // 5 - _BESIDE_TEXT
        if subject.startswith("rank:"):
            rank = int(subject.partition(":")[2])
            text = rank_pane(picture, rank, self._window, self._trends, room)
        told = text or (detail(picture, key) if key else Text())
        self._pane_text.update(self._fitted(told, room))

    def _fitted(self, text: Text, width: int) -> Text:
        return hanging(text, width, self.app.console)

    @property
    def has_pane(self) -> bool:
        """Whether there is room for the pane, and it is wanted."""
        return self._with_pane and self.detail_key is None and self.app.size.width >= PANES_FROM

    # ---- looking ---------------------------------------------------------------------------

    @property
    def selected_key(self) -> str | None:
        """The subject under the cursor."""
        if self.view == "map":
            rank = self._map.global_rank
            return None if rank is None else f"rank:{rank}"
        line = self._lists[self.view].selected
        return line.key if line is not None else None

    def open(self, view: str) -> None:
        """Opens a view, and closes the detail."""
        self.view, self.detail_key = view, None
        self._show(view)

    def open_detail(self, key: str) -> None:
        self.touched = True
        self.detail_key = key
        self._page.scroll_home(animate=False)
        self._show("detail")

    def focus_open(self) -> None:
        """Gives the keys back to what is open."""
        self._show("detail" if self.detail_key is not None else self.view)

    def _show(self, name: str) -> None:
        self._switcher.current = name
        widget = (
            self._page if name == "detail" else self._map if name == "map" else self._lists[name]
        )
        widget.focus()
        self._pane.scroll_home(animate=False)

    def fold(self, key: str) -> None:
        """Folds or unfolds a frame of the stacks."""
        self._folded ^= {key}

    def select(self, key: str) -> bool:
        """Moves the cursor to a subject; False where the open view does not show it."""
        if self.view == "map":
            return self._map.select(int(key.partition(":")[2]))
        return self._lists[self.view].select(key)

    def sort(self, *, reverse: bool = False) -> None:
        """Sorts the ranks, or the loads in their view, by the next column or the other way round."""
        view = "loading" if self.view == "loading" else "ranks"
        order = self._orders[view]
        other = order._replace(reverse=not order.reverse)
        self._orders[view] = other if reverse else order.following(_SORTED_BY[view])

    def toggle_pane(self) -> None:
        self._with_pane = not self._with_pane

    # ---- moving ----------------------------------------------------------------------------

    def move(self, steps: int) -> None:
        """Moves the cursor, or scrolls the detail."""
        self.touched = True
        if self.detail_key is not None:
            self._page.scroll_relative(y=steps, animate=False)
        elif self.view == "map":
            self._map.move(0, steps)
        else:
            self._lists[self.view].move(steps)

    def page(self, direction: int) -> None:
        """Moves by a screen."""
        self.touched = True
        if self.detail_key is not None:
            height = max(1, self._page.size.height - 1)
            self._page.scroll_relative(y=direction * height, animate=False)
        elif self.view == "map":
            self._map.page(direction)
        else:
            self._lists[self.view].page(direction)

    def edge(self, direction: int) -> None:
        """Moves to the first or last line."""
        self.touched = True
        if self.detail_key is not None:
            go = self._page.scroll_home if direction < 0 else self._page.scroll_end
            go(animate=False)
        elif self.view == "map":
            self._map.edge(direction)
        else:
            self._lists[self.view].edge(direction)

    def across(self, steps: int) -> None:
        """Moves the cursor of the map by tiles."""
        self.touched = True
        if self.view == "map":
            self._map.move(steps, 0)

    def zoom(self, steps: int) -> None:
        self._map.zoom(steps)

    def group(self) -> None:
        self._map.group()
