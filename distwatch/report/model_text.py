"""Model loads as lines of plain text, for a code block."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import Outstanding, Placement
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import name_ranks
from distwatch.views import load_text, load_timeline
from distwatch.views.load_groups import LoadGroup

CELLS = 72
_LABEL = 9


def load_lines(group: LoadGroup) -> Iterable[str]:
    """One load, or several with one outcome: its status, phases, waits and device map."""
    load = group.load
    who = name_ranks(group.global_ranks)
    outcome = load_text.plain(load_text.outcome(group))
    yield f"{who}  {load.call} {load.arguments.checkpoint}: {outcome}"
    if load.error:
        yield _labelled("error", load.error)
    if load.phases:
        pieces = load_timeline.timeline_pieces(load_timeline.spans_of(load), CELLS - 1)
        end = "▸" if load.under_way else "✗" if load.cut_off else "│"
        yield _labelled("phases", "".join(piece.text for piece in pieces) + end)
        words = (load_text.span_words(span, load) for span in load_text.shown_spans(load))
        yield _labelled("", load_text.plain(load_text.dotted(words)))
    if not load.ended or load.error:
        yield from (_labelled(name, text) for name, text in progress(load))
    for one in load.outstanding:
        yield _labelled(load_text.wait_label(load), wait_text(load, one))
    if load.placement is not None:
        yield from _placed(load.placement)


def _labelled(name: str, text: str) -> str:
    return f"  {name:<{_LABEL}}{' '.join(text.split())}"


def progress(load: LoadStatus) -> Iterable[tuple[str, str]]:
    """Files, tensors and bytes, as far as they are counted; – means not observed."""
    if load.total:
        file = f"  {load.file}" if load.file else ""
        yield "files", f"{load.done} of {load.total}{file}"
    if load.parameters_total or load.bytes:
        yield "tensors", load_text.plain(load_text.counted(load))


def wait_text(load: LoadStatus, one: Outstanding) -> str:
    """`a request for 42 s, attempt 3 after TimeoutError: HEAD http://…`."""
    after = f" after {one.last_error}" if one.last_error else ""
    return f"{load_text.plain(load_text.wait_words(load, one))}{after}: {one.what}"


def _placed(placement: Placement) -> Iterable[str]:
    yield _labelled("model", load_text.plain(load_text.model_words(placement)))
    bars = load_timeline.device_bars(placement)
    largest = max((bar.bytes for bar in bars), default=0)
    yield from (_labelled(bar.device, _device(bar, largest)) for bar in bars)
    told = [
        ("offload", load_text.plain(load_text.offload_words(placement))),
        ("on meta", load_text.plain(load_text.leaked_words(placement))),
    ]
    told += [("note", note) for note in placement.notes]
    yield from (_labelled(name, text) for name, text in told if text)


def _device(bar: load_timeline.DeviceBar, largest: int) -> str:
    pieces = load_timeline.device_pieces(bar, largest, CELLS - 24) if bar.modules else ()
    text = "".join(piece.text for piece in pieces)
    return f"{text}│ {load_text.size_text(bar.bytes)}, {count_of(bar.tensors, 'tensor')}"
