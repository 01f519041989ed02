"""The detail of a load: arguments, phases, waits, and the whole device map."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import Placement
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import name_ranks
from distwatch.tui.cells import format_bytes
from distwatch.tui.load_cells import files_cell, styled, tensors_cell, wait_cell
from distwatch.tui.picture import Picture
from distwatch.tui.styles import MUTED, RED, STRONG, YELLOW
from distwatch.tui.views.line import join_lines, section
from distwatch.tui.views.loading import find_load
from distwatch.tui.visible_text import Text
from distwatch.views import load_text, load_timeline
from distwatch.views.load_groups import LoadGroup

_WIDE = 120
_UNCUT = 10_000


def load_detail(picture: Picture, key: str) -> Text | None:
    """Everything about one load, or about the slowest of several with one outcome."""
    group = find_load(picture, key)
    return join_lines(_lines(group)) if group else None


def _lines(group: LoadGroup) -> Iterable[Text]:
    load, ranks = group.load, group.global_ranks
    yield Text.assemble(
        (f"{name_ranks(ranks)}  {load.call}", STRONG), "  ", styled(load_text.outcome(group))
    )
    yield Text(load.arguments.checkpoint)
    if load.error:
        yield Text(load_text.one_line(load.error), RED)
    yield from section("arguments", list(_arguments(load)))
    of = f", of the slowest: rank {load.global_rank}" if len(ranks) > 1 else ""
    spans = load_timeline.spans_of(load)
    yield from section(f"phases{of}", [styled(load_text.span_words(s, load)) for s in spans])
    yield from section("progress", list(_progress(load)))
    waits = [wait_cell(load, one, _UNCUT) for one in load.outstanding]
    yield from section(load_text.wait_label(load), waits)
    if load.placement is not None:
        yield from _placed(load.placement)


def _arguments(load: LoadStatus) -> Iterable[Text]:
    asked = load.arguments
    for name, value in (
        ("device_map", asked.device_map),
        ("parallel plan", asked.parallel_plan),
        ("dtype", asked.dtype),
        ("quantization", asked.quantization),
        ("max_memory", asked.max_memory),
        ("offload_folder", asked.offload_folder),
        ("versions", ", ".join(f"{name} {what}" for name, what in asked.versions.items())),
    ):
        if value:
            yield Text.assemble((f"{name:<15} ", MUTED), value)


def _progress(load: LoadStatus) -> Iterable[Text]:
    if load.total:
        yield files_cell(load, _WIDE)
    if load.parameters_total or load.bytes:
        yield tensors_cell(load, _WIDE)


def _placed(placement: Placement) -> Iterable[Text]:
    yield from section("model", [styled(load_text.model_words(placement))])
    for bar in load_timeline.device_bars(placement):
        rows = [
            Text.assemble((f"{format_bytes(module.bytes):>10}  ", MUTED), module.module or "whole model")
            for module in bar.modules
        ]  # fmt: skip
        held = f"{bar.device}: {format_bytes(bar.bytes)}, {count_of(bar.tensors, 'tensor')}"
        yield from section(held, rows or [Text("buffers only", MUTED)])
    if placement.modules_left_out:
        left = f"  the device map has {placement.modules_left_out} more entries, which were not recorded"
        yield Text(left, YELLOW)
    for title, words in (
        ("offloaded", load_text.offload_words(placement)),
        ("on meta", load_text.leaked_words(placement)),
    ):
        yield from section(title, [styled(words)] if words else [])
    yield from section("notes", [Text(note) for note in placement.notes])
