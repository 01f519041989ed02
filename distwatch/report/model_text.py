"""Model loads as lines of plain text, for a code block."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import Outstanding, Placement
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import name_ranks
from distwatch.views.load_groups import LoadGroup
from distwatch.views.load_text import (
    counted,
    dotted,
    leaked_words,
    model_words,
    offload_words,
    outcome,
    plain,
    shown_spans,
    size_text,
    span_words,
    wait_label,
    wait_words,
)
from distwatch.views.load_timeline import (
    DeviceBar,
    device_bars,
    device_pieces,
    spans_of,
    timeline_pieces,
)

CELLS = 72
_LABEL = 9


def load_lines(group: LoadGroup) -> Iterable[str]:
    """One load, or several with one outcome: its status, phases, waits and device map."""
    load = group.load
    who = name_ranks(group.global_ranks)
    yield f"{who}  {load.call} {load.arguments.checkpoint}: {plain(outcome(group))}"
    if load.error:
        yield _labelled("error", load.error)
    if load.phases:
        bar = "".join(piece.text for piece in timeline_pieces(spans_of(load), CELLS - 1))
        yield _labelled("phases", f"{bar}{'▸' if load.under_way else '✗' if load.cut_off else '│'}")
        yield _labelled("", plain(dotted(span_words(span, load) for span in shown_spans(load))))
    if not load.ended or load.error:
        yield from (_labelled(name, text) for name, text in progress(load))
    for one in load.outstanding:
        yield _labelled(wait_label(load), wait_text(load, one))
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
        yield "tensors", plain(counted(load))


def wait_text(load: LoadStatus, one: Outstanding) -> str:
    """`a request for 42 s, attempt 3 after TimeoutError: HEAD http://…`."""
    after = f" after {one.last_error}" if one.last_error else ""
    return f"{plain(wait_words(load, one))}{after}: {one.what}"


def _placed(placement: Placement) -> Iterable[str]:
    yield _labelled("model", plain(model_words(placement)))
    bars = device_bars(placement)
    largest = max((bar.bytes for bar in bars), default=0)
    yield from (_labelled(bar.device, _device(bar, largest)) for bar in bars)
    told = [
        ("offload", plain(offload_words(placement))),
        ("on meta", plain(leaked_words(placement))),
    ]
    told += [("note", note) for note in placement.notes]
    yield from (_labelled(name, text) for name, text in told if text)


def _device(bar: DeviceBar, largest: int) -> str:
    pieces = device_pieces(bar, largest, CELLS - 24) if bar.modules else ()
    text = "".join(piece.text for piece in pieces)
    return f"{text}│ {size_text(bar.bytes)}, {count_of(bar.tensors, 'tensor')}"
