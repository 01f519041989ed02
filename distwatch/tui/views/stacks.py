"""View 3: all ranks' main threads merged into one tree, with the ranks at each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from distwatch.state.rank_sets import format_ranks
from distwatch.tui.cells import fit
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, FAINT, MUTED, RED, STRONG, YELLOW
from distwatch.tui.views.line import Line
from distwatch.tui.visible_text import Text
from distwatch.views.stack_tree import StackNode

EMPTY = (
    "no stacks taken yet: the observer takes them when a deadline passes; press d to take them now"
)
_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen")


class _Spot(NamedTuple):
    """A node in its place: chains of single children stay at one depth, a branch goes deeper."""

    key: str
    node: StackNode
    depth: int
    branches: bool
    """Its ranks differ from its parent's, so they are shown."""


def lines(picture: Picture, folded: frozenset[str]) -> list[Line]:
    """The tree, without the nodes below a folded frame."""
    culprits = picture.culprits
    return [
        Line(
            key=spot.key,
            draw=partial(_draw, spot, spot.key in folded, culprits),
            ranks=spot.node.global_ranks,
        )
        for spot in _walk(picture.stacks, "stack:", 0, (), folded)
    ]


def heading(picture: Picture, width: int) -> Text:
    """The column titles, and the ranks without a stack in the tree."""
    absent = format_ranks(ranks_without_stack(picture))
    line = Text.assemble((f"{'RANKS':<{_rank_width(width)}} FRAME, outermost first", FAINT))
    if absent:
        line.append(f" · no stack of: {absent}", YELLOW)
    return fit(line, width)


def ranks_without_stack(picture: Picture) -> tuple[int, ...]:
    """Ranks without a merged stack."""
    seen = {rank for root in picture.stacks for rank in root.global_ranks}
    return tuple(s.global_rank for s in picture.rank_statuses if s.global_rank not in seen)


def find_node(picture: Picture, key: str) -> StackNode | None:
    """The node of a line's key."""
    spots = _walk(picture.stacks, "stack:", 0, (), frozenset())
    return next((spot.node for spot in spots if spot.key == key), None)


def _walk(
    nodes: Iterable[StackNode],
    path: str,
    depth: int,
    above: tuple[int, ...],
    folded: frozenset[str],
) -> Iterator[_Spot]:
    # Stacks may be deeper than Python's recursion limit: walk them with a list.
    pending = [(node, path, depth, above) for node in reversed(list(nodes))]
    while pending:
        node, path, depth, above = pending.pop()
        key = f"{path}/{node.function}@{node.file}:{node.line}"
        yield _Spot(key, node, depth, tuple(node.global_ranks) != tuple(above))
        if key not in folded:
            deeper = depth + (len(node.children) > 1)
            pending += [(c, key, deeper, node.global_ranks) for c in reversed(node.children)]


def _rank_width(width: int) -> int:
    return min(14, max(6, width // 8))


def _draw(spot: _Spot, folded: bool, culprits: frozenset[int], width: int) -> Text:
    node = spot.node
    blamed = not culprits.isdisjoint(node.global_ranks) and len(node.global_ranks) <= len(culprits)
    ranks = format_ranks(node.global_ranks) if spot.branches else ""
    own = not node.native and not any(part in node.file for part in _LIBRARIES)
    mark = "▸" if folded else "●" if not node.children else "▾" if len(node.children) > 1 else "│"
    name = node.file.rpartition("/")[2]
    line = Text.assemble(
        fit(Text(ranks, f"bold {RED if blamed else BLUE}"), _rank_width(width)),
        " ", "  " * spot.depth, (f"{mark} ", FAINT),
        (node.function, STRONG if own else MUTED),
        (f"  {name}:{node.line}" if node.line else f"  {name}", "" if own else FAINT),
    )  # fmt: skip
    if node.native:
        line.append("  native", FAINT)
    return fit(line, width)
