"""View 9: the map of all ranks, arranged in rows of tiles that fit the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from distwatch.tui.cells import fit
from distwatch.tui.styles import BLAMED_TILE, CULPRIT, FAINT, MUTED, STATES, TILES
from distwatch.tui.visible_text import Text
from distwatch.views.rank_map import Cell, RankMap, fitting_share

EMPTY = "no ranks seen yet: waiting for the first process of the job to report"
_GAP = 2
_LABEL = 16
"""Cells before a packed row: the block and rank that it begins with."""
_IN_A_ROW = 16
"""Tiles side by side in a titled block."""
Mapping = Callable[[int], RankMap]
"""The map with that many ranks a tile."""


class Level(NamedTuple):
    """How large the tiles are. Titled blocks flow over the screen; packed tiles fill its rows."""

    name: str
    tile: int
    titled: bool
    share: int = 1


class Place(NamedTuple):
    """Where a tile is: `cells[start:end]` of its row."""

    start: int
    end: int
    cell: Cell


class Row(NamedTuple):
    """One row of the screen: a title, or tiles, or several of each side by side."""

    texts: tuple[tuple[int, str], ...] = ()
    places: tuple[Place, ...] = ()


class Sheet(NamedTuple):
    """The arranged map."""

    level: Level
    rows: tuple[Row, ...]


def levels(ranks: int, width: int, height: int) -> list[Level]:
    """The sizes of tiles, the largest first."""
    number = len(str(max(0, ranks - 1))) + 5
    share = fitting_share(ranks, max(1, (width - _LABEL) * max(1, height)))
    packed = [Level("packed", 1, False, share << more) for more in range(3)]
    return [
        Level("numbered", number, True),
        Level("square", 2, True),
        Level("small", 1, True),
        *([Level("packed", 1, False)] if share > 1 else []),
        *packed,
    ]


def arrange(mapping: Mapping, ranks: int, width: int, height: int, zoom: int = 0) -> Sheet:
    """The map in the largest tiles that fit, or in `zoom` steps larger ones (negative: smaller)."""
    ladder = levels(ranks, width, height)
    sheets: dict[int, Sheet] = {}

    def sheet(place: int) -> Sheet:
        if place not in sheets:
            level = ladder[place]
            sheets[place] = Sheet(level, tuple(_rows(mapping(level.share), level, width)))
        return sheets[place]

    fits = (
        n
        for n, level in enumerate(ladder)
        if _may_fit(level, ranks, width, height) and len(sheet(n).rows) <= height
    )
    first = next(fits, len(ladder) - 1)
    return sheet(max(0, min(first - zoom, len(ladder) - 1)))


def _may_fit(level: Level, ranks: int, width: int, height: int) -> bool:
    """Whether it may fit: what surely does not needs no arranging."""
    return ranks * level.tile <= width * height * level.share


def _rows(ranks: RankMap, level: Level, width: int) -> Iterator[Row]:
    return (_titled if level.titled else _packed)(ranks, level, width)


def _titled(ranks: RankMap, level: Level, width: int) -> Iterator[Row]:
    """Blocks side by side, as many as fit, each below its title."""
    blocks = ranks.blocks
    in_a_row = max(1, min(width // level.tile, max(len(block.cells) for block in blocks)))
    if len(blocks) > 1:
        in_a_row = min(in_a_row, _IN_A_ROW)
    beside = max(1, (width + _GAP) // (in_a_row * level.tile + _GAP))
    for first in range(0, len(blocks), beside):
        here = blocks[first : first + beside]
        # A block's tiles are as wide as the widest block: columns of one kind line up.
        starts = [number * (in_a_row * level.tile + _GAP) for number in range(len(here))]
        room = in_a_row * level.tile
        yield Row(
            texts=tuple(
                (start, _short(block.title, room if len(here) > 1 else width))
                for start, block in zip(starts, here, strict=True)
            )
        )
        depth = max(-(-len(block.cells) // in_a_row) for block in here)
        for line in range(depth):
            places: list[Place] = []
            for start, block in zip(starts, here, strict=True):
                cells = block.cells[line * in_a_row : (line + 1) * in_a_row]
                places += _placed(cells, start, level.tile)
            yield Row(places=tuple(places))
        if level.tile > 1:
            yield Row()


def _packed(ranks: RankMap, level: Level, width: int) -> Iterator[Row]:
    """All tiles one after the other; a row begins with a block where blocks are of one size."""
    cells = [cell for block in ranks.blocks for cell in block.cells]
    in_a_row = max(1, width - _LABEL)
    if ranks.period < in_a_row:
        in_a_row -= in_a_row % ranks.period
    for first in range(0, len(cells), in_a_row):
        here = cells[first : first + in_a_row]
        rank = str(here[0].global_ranks[0])
        room = _LABEL - 2 - len(rank)
        yield Row(
            texts=((0, f"{_short(here[0].block, room):<{room}} {rank}"),),
            places=tuple(_placed(here, _LABEL, level.tile)),
        )


def _placed(cells: Sequence[Cell], start: int, tile: int) -> list[Place]:
    return [Place(start + n * tile, start + (n + 1) * tile, cell) for n, cell in enumerate(cells)]


def _short(title: str, room: int) -> str:
    """The end of a host's name sets it apart from the others."""
    return title if len(title) <= room else f"…{title[-(room - 1) :]}" if room > 1 else title[-1:]


def draw_row(row: Row, level: Level, selected: Cell | None, width: int) -> Text:
    """One row of the sheet; the selected tile is reversed."""
    text, at = Text(), 0
    for start, title in row.texts:
        text.append(" " * (start - at)).append(title, MUTED)
        at = start + len(title)
    run, style = "", ""
    for place in row.places:
        here = tile_style(place.cell, place.cell is selected)
        if place.start != at or here != style:
            text.append(run, style)
            text.append(" " * (place.start - at))
            run, style = "", here
        run += tile_text(place.cell, level.tile)
        at = place.end
    return fit(text.append(run, style), width)


def tile_text(cell: Cell, tile: int) -> str:
    """`▶   2 r `, `▶r`, or the letter alone, which the mark of a blamed rank replaces."""
    letter = cell.status.letter
    if tile == 1:
        return CULPRIT if cell.blamed else letter
    mark = CULPRIT if cell.blamed else " "
    if tile == 2:
        return f"{mark}{letter}" if cell.blamed else f"{letter} "
    number = cell.global_ranks[0]
    return f"{mark}{number:>{tile - 5}} {letter}  "[: tile - 1] + " "


def tile_style(cell: Cell, selected: bool = False) -> str:
    """The colours of a tile."""
    style = BLAMED_TILE if cell.blamed else TILES[cell.status.tone]
    return f"{style} reverse" if selected else style


def heading(ranks: RankMap, share: int, width: int) -> Text:
    """How many ranks have each status, and what a tile is."""
    text = Text()
    for word, count in ranks.counts:
        letter = next(
            (c.status.letter for b in ranks.blocks for c in b.cells if c.word == word), word[:1]
        )
        text.append(f"{letter} ", f"bold {STATES.get(word, '')}")
        text.append(f"{word} {count:,}   ", STATES.get(word, MUTED))
    several = f"{share} ranks a tile, the worst counts" if share > 1 else "a tile a rank"
    return fit(text.append(f"by {ranks.by} · {several}", FAINT), width)
