"""The widget of the rank map: a sheet of tiles with a cursor that stays on its rank."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from distwatch.tui.cells import fit
from distwatch.tui.picture import Picture
from distwatch.tui.styles import MUTED
from distwatch.tui.views import map as rank_map
from distwatch.tui.visible_text import Text
from distwatch.views.rank_map import Cell, RankMap, groupings, map_ranks

_NO_SHEET = rank_map.Sheet(rank_map.Level("numbered", 8, True), ())
_TOP = 2
"""The heading, and an empty line."""


class RankMapView(ScrollView, can_focus=True, inherit_bindings=False):
    """All ranks on one screen."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"rank-map--empty"}

    class Opened(Message):
        """The tile under the cursor was clicked a second time."""

    class Moved(Message):
        """The cursor is on another tile."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._picture: Picture | None = None
        self._selected: frozenset[int] | None = None
        self._maps: dict[int, RankMap] = {}
        self._sheet = _NO_SHEET
        self._places: dict[int, tuple[int, int]] = {}
        """Where each rank is: row, and number of the tile in it."""
        self._empty = rank_map.EMPTY
        self._rank = 0
        self._by = 0
        self._zoom = 0

    @property
    def global_rank(self) -> int | None:
        """The rank under the cursor: of a tile with several, the first that counts."""
        cell = self._cell
        return self._rank_of(cell) if cell else None

    def show(self, picture: Picture, selected: frozenset[int] | None, empty: str) -> None:
        """Draws the ranks of a picture, or the selected ones."""
        if picture is not self._picture or selected != self._selected:
            self._maps.clear()
        self._picture, self._selected, self._empty = picture, selected, empty
        self._arrange()

    def select(self, global_rank: int) -> bool:
        """Moves the cursor to a rank; False where it is not on the map."""
        status = self._picture.status(global_rank) if self._picture else None
        if status is None or (self._selected is not None and global_rank not in self._selected):
            return False
        # Before the first layout there is no tile yet: the cursor goes there with the rank.
        self._rank = global_rank
        self._reveal()
        return True

    def zoom(self, steps: int) -> None:
        """Larger (1) or smaller (-1) tiles."""
        before = self._sheet.level
        self._zoom += steps
        self._arrange()
        if self._sheet.level == before:
            self._zoom -= steps

    def group(self) -> None:
        """Groups the ranks by the next of: host, the axes of the layout."""
        self._by += 1
        self._maps.clear()
        self._arrange()

    def move(self, across: int, down: int) -> None:
        """Moves the cursor by tiles: to the nearest of another row."""
        here = self._places.get(self._rank)
        rows = [n for n, row in enumerate(self._sheet.rows) if row.places]
        if here is None or not rows:
            return
        y, x = here
        if down:
            at = max(0, min(rows.index(y) + down, len(rows) - 1))
            start = self._sheet.rows[y].places[x].start
            y = rows[at]
            places = self._sheet.rows[y].places
            x = min(range(len(places)), key=lambda n: abs(places[n].start - start))
        else:
            flat = [(row, n) for row in rows for n in range(len(self._sheet.rows[row].places))]
            y, x = flat[max(0, min(flat.index((y, x)) + across, len(flat) - 1))]
        self._go(self._sheet.rows[y].places[x].cell)

    def page(self, direction: int) -> None:
        self.move(0, direction * max(1, self._height - 1))

    def edge(self, direction: int) -> None:
        """Moves the cursor to the first or last tile."""
        rows = [row for row in self._sheet.rows if row.places]
        if rows:
            self._go(rows[0].places[0].cell if direction < 0 else rows[-1].places[-1].cell)

    # ---- the sheet -------------------------------------------------------------------------

    def _map(self, share: int) -> RankMap:
        if share not in self._maps and self._picture is not None:
            picture, chosen = self._picture, self._selected
            statuses = [
                s for s in picture.rank_statuses if chosen is None or s.global_rank in chosen
            ]
            names = groupings(picture.layouts)
            by = names[self._by % len(names)]
            self._maps[share] = map_ranks(statuses, picture.culprits, picture.layouts, by, share)
        return self._maps[share]

    def _arrange(self) -> None:
        width = self.scrollable_content_region.width - 1
        ranks = sum(count for _, count in self._map(1).counts) if self._picture else 0
        if not ranks or width < 1:
            self._sheet = _NO_SHEET
        else:
            self._sheet = rank_map.arrange(self._map, ranks, width, self._height, self._zoom)
        self._places = {
            rank: (y, x)
            for y, row in enumerate(self._sheet.rows)
            for x, place in enumerate(row.places)
            for rank in place.cell.global_ranks
        }
        if self._places and self._rank not in self._places:
            self._rank = next(iter(self._places))
        self.virtual_size = Size(self.size.width, len(self._sheet.rows) + _TOP + 1)
        self._reveal()

    @property
    def _height(self) -> int:
        return max(1, self.scrollable_content_region.height - _TOP - 1)

    @property
    def _cell(self) -> Cell | None:
        place = self._places.get(self._rank)
        return self._sheet.rows[place[0]].places[place[1]].cell if place else None

    def _rank_of(self, cell: Cell) -> int:
        """Of several ranks in a tile, the one that gave it its colour."""
        picture = self._picture
        for rank in cell.global_ranks:
            status = picture.status(rank) if picture else None
            blamed = picture is not None and rank in picture.culprits
            if status is not None and status.word == cell.word and blamed == cell.blamed:
                return rank
        return cell.global_ranks[0]

    def _go(self, cell: Cell) -> None:
        self._rank = self._rank_of(cell)
        self._reveal()
        self.post_message(self.Moved())

    def _reveal(self) -> None:
        place = self._places.get(self._rank)
        top = self.scroll_offset.y
        if place is not None and not top <= place[0] < top + self._height:
            y = place[0] if place[0] < top else place[0] - self._height + 1
            self.scroll_to(y=y, animate=False, force=True, immediate=True)
        self.refresh()

    # ---- drawing ---------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        region = self.scrollable_content_region
        if not self._sheet.rows:
            return self._strip(Text(self._empty if y == 1 else "", MUTED), region.width)
        if y == 0:
            return self._strip(
                rank_map.heading(self._map(1), self._sheet.level.share, region.width - 1),
                region.width,
            )
        if y == region.height - 1:
            return self._strip(self._says(), region.width)
        at = y - _TOP + self.scroll_offset.y
        if y < _TOP or at >= len(self._sheet.rows):
            return Strip.blank(region.width, self.rich_style)
        row = rank_map.draw_row(
            self._sheet.rows[at], self._sheet.level, self._cell, region.width - 1
        )
        return self._strip(row, region.width)

    def _says(self) -> Text:
        """What is under the cursor, in a line."""
        cell = self._cell
        status = self._picture.status(self._rank_of(cell)) if self._picture and cell else None
        if cell is None or status is None:
            return Text()
        told = " · ".join(filter(None, (status.doing, status.where)))
        return Text.assemble((cell.title, "bold"), (f"  {told}", MUTED))

    def _strip(self, text: Text, width: int) -> Strip:
        style = self.rich_style
        line = Text.assemble(" ", fit(text, max(1, width - 1)))
        strip = Strip(list(line.render(self.app.console)))
        return strip.apply_style(style).extend_cell_length(width, style).crop(0, width)

    def on_click(self, event: events.Click) -> None:
        at = event.y - _TOP + self.scroll_offset.y
        if event.y < _TOP or not 0 <= at < len(self._sheet.rows):
            return
        for place in self._sheet.rows[at].places:
            if place.start <= event.x - 1 < place.end:
                if place.cell is self._cell:
                    self.post_message(self.Opened())
                else:
                    self._go(place.cell)

    def on_resize(self) -> None:
        if self._picture is not None:
            self._arrange()
            # Only now it is known which tiles there are, and so what is under the cursor.
            self.post_message(self.Moved())
