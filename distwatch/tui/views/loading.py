"""View 7: model loads: phases on a timeline, progress, waits, and the device map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from distwatch.state.loads import Placement
from distwatch.state.rank_sets import name_ranks
from distwatch.tui import load_cells
from distwatch.tui.cells import clip_middle, dotted, fit
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, CULPRIT, FAINT, MUTED, RED, STRONG, YELLOW
from distwatch.tui.views.line import Line, lines_about
from distwatch.tui.views.ranks import Order
from distwatch.tui.visible_text import Text
from distwatch.views import load_text, load_timeline
from distwatch.views.load_groups import LoadGroup

EMPTY = (
    "no model load seen: distwatch sees from_pretrained, load_checkpoint_and_dispatch and dispatch_model "
    "in ranks that run with distwatch"
)
_LABEL = 9
SORTED_BY: dict[str, Callable[[LoadGroup], Any]] = {
    "still": lambda group: 0,
    "rank": lambda group: group.global_ranks[0],
    "done": lambda group: group.load.share if group.load.share is not None else 1.0,
}
FIRST_ORDER = Order("still")


def load_key(group: LoadGroup) -> str:
    return f"load:{group.global_ranks[0]}:{group.load.step}"


def find_load(picture: Picture, key: str) -> LoadGroup | None:
    return next((group for group in picture.loads if load_key(group) == key), None)


def lines(picture: Picture, order: Order) -> list[Line]:
    """A block for each load under way; ended loads with one outcome share a block."""
    found: list[Line] = []
    loading = {
        rank for group in picture.loads if group.load.under_way for rank in group.global_ranks
    }
    groups = sorted(picture.loads, key=SORTED_BY[order.column])
    for group in reversed(groups) if order.reverse else groups:
        key = load_key(group)
        # A blamed rank is blamed for the load that it is in, not for a load that it completed.
        blamed = picture.culprits - (frozenset() if group.load.under_way else loading)
        draws = _parts(group, not blamed.isdisjoint(group.global_ranks))
        found += lines_about(key, draws, group.global_ranks, block=key)
    return found


def heading(picture: Picture, order: Order, width: int) -> Text:
    """How many loads of each kind there are, and the sort order."""
    ranks: dict[str, int] = {}
    for group in picture.loads:
        load = group.load
        word = "under way" if load.under_way else "cut off" if load.cut_off else "ended"
        word = "failed" if load.error else word
        ranks[word] = ranks.get(word, 0) + len(group.global_ranks)
    styles = {"under way": STRONG, "cut off": RED, "failed": RED, "ended": MUTED}
    parts = [Text(f"{count} {word}", styles[word]) for word, count in ranks.items()]
    by = {"still": "longest still first", "rank": "by rank", "done": "least done first"}
    way = ", reversed" if order.reverse else ""
    return fit(dotted([*parts, Text(f"{by[order.column]}{way}", FAINT)]), width)


def _parts(group: LoadGroup, blamed: bool) -> list[Callable[[int], Text]]:
    """The functions that draw each line of a block."""
    load = group.load
    parts: list[Callable[[int], Text]] = [partial(_title, group, blamed)]
    if load.error:
        error = Text(load_text.one_line(load.error), RED)
        parts.append(_labelled("error", partial(fit, error), RED))
    if load.phases:
        parts.append(_labelled("phases", partial(load_cells.timeline_cell, load)))
        parts.append(_labelled("", partial(load_cells.phases_cell, load)))
    if load.total and not (load.ended and not load.error):
        parts.append(_labelled("files", partial(load_cells.files_cell, load)))
    if load.under_way or load.cut_off:
        parts.append(_labelled("tensors", partial(load_cells.tensors_cell, load)))
    wait = load_text.wait_label(load)
    parts += [_labelled(wait, partial(load_cells.wait_cell, load, one)) for one in load.outstanding]
    if load.placement is not None:
        parts += _placed(load.placement)
    return [*parts, lambda width: Text()]


def _placed(placement: Placement) -> list[Callable[[int], Text]]:
    bars = load_timeline.device_bars(placement)
    largest = max((bar.bytes for bar in bars), default=0)
    parts = [_labelled("model", partial(fit, load_cells.styled(load_text.model_words(placement))))]
    parts += [partial(_device, bar, largest) for bar in bars]
    if offloaded := load_text.offload_words(placement):
        parts.append(_labelled("offload", partial(fit, load_cells.styled(offloaded))))
    if leaked := load_text.leaked_words(placement):
        parts.append(_labelled("on meta", partial(fit, load_cells.styled(leaked)), RED))
    notes = [partial(fit, Text(note, MUTED)) for note in placement.notes]
    return [*parts, *(_labelled("note", note) for note in notes)]


def _title(group: LoadGroup, blamed: bool, width: int) -> Text:
    load, ranks = group.load, group.global_ranks
    name = Text(name_ranks(ranks), f"bold {RED}" if blamed else STRONG)
    name.truncate(max(20, width // 3), overflow="ellipsis")
    end = load_cells.styled(load_text.outcome(group))
    left = Text.assemble(
        (f"{CULPRIT} " if blamed else "", RED), name, "  ", (load.call, BLUE), "  "
    )
    room = width - end.cell_len - 2
    left.append(clip_middle(load.arguments.checkpoint, max(12, room - left.cell_len)))
    return fit(Text.assemble(fit(left, room), "  ", end) if room >= 20 else left, width)


def _labelled(label: str, cell: Callable[[int], Text], style: str = MUTED) -> Callable[[int], Text]:
    def draw(width: int) -> Text:
        room = max(8, width - _LABEL - 2)
        return fit(Text.assemble((f"  {label:<{_LABEL}}", style), cell(room)), width)

    return draw


def _device(bar: load_timeline.DeviceBar, largest: int, width: int) -> Text:
    style = RED if bar.is_nowhere else YELLOW if bar.is_offloaded else MUTED
    return _labelled(
        bar.device[: _LABEL - 1], partial(load_cells.device_cell, bar, largest), style
    )(width)
