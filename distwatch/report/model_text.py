"""Model loads as lines of plain text, for a code block."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import Outstanding, Placement
from distwatch.state.rank_sets import format_ranks
from distwatch.views.load_groups import LoadGroup
from distwatch.views.load_timeline import (
    DeviceBar,
    Span,
    device_bars,
    device_pieces,
    spans_of,
    timeline_pieces,
)

CELLS = 72
_LABEL = 9


def load_lines(group: LoadGroup) -> Iterable[str]:
    """One load, or several that came out alike: how it stands, its phases, its waits, its map."""
    load = group.load
    yield f"{who(group)}  {load.call} {load.arguments.checkpoint}: {outcome(group)}"
    if load.error:
        yield _labelled("error", load.error)
    if load.phases:
        spans = spans_of(load)
        bar = "".join(piece.text for piece in timeline_pieces(spans, CELLS - 1))
        yield _labelled("phases", f"{bar}{'▸' if load.under_way else '✗' if load.cut_off else '│'}")
        yield _labelled("", " · ".join(span_text(span, load) for span in shown_spans(load)))
    if not load.ended or load.error:
        yield from (_labelled(name, text) for name, text in progress(load))
    for one in load.outstanding:
        yield _labelled(waits_label(load), wait_text(load, one))
    if load.placement is not None:
        yield from _placed(load.placement)


def _labelled(name: str, text: str) -> str:
    return f"  {name:<{_LABEL}}{' '.join(text.split())}"


def who(group: LoadGroup) -> str:
    several = len(group.global_ranks) > 1
    return f"rank{'s' if several else ''} {format_ranks(group.global_ranks)}"


def outcome(group: LoadGroup) -> str:
    """`moved 42.0 s ago, began 58.0 s ago`, `loaded in 3.1 s`, `failed after 3.1 s`."""
    load = group.load
    took = f"{load.took_s:.1f} s"
    if load.under_way:
        return f"moved {load.still_s:.1f} s ago, began {took} ago"
    if load.cut_off:
        return f"its process ended after {took}, moved {load.still_s:.1f} s before"
    if f"{group.quickest_s:.1f} s" != took:
        took = f"{group.quickest_s:.1f} to {took}"
    return f"failed after {took}" if load.error else f"loaded in {took}"


def shown_spans(load: LoadStatus) -> list[Span]:
    """The phases, and what took more than a second between them."""
    return [span for span in spans_of(load) if span.number or span.took_s > 1]


def span_text(span: Span, load: LoadStatus) -> str:
    """`4 shards 45.0 s so far`; an error of the load as a whole is told elsewhere."""
    if not span.number:
        return f"outside all phases {span.took_s:.1f} s"
    text = f"{span.number} {span.name} {span.took_s:.1f} s{' so far' if span.under_way else ''}"
    error = "" if span.error == load.error else f" {span.error}"
    return f"{text} ✗{error}" if span.error else text


def progress(load: LoadStatus) -> Iterable[tuple[str, str]]:
    """Files, tensors and bytes, as far as anything counts them; – is not observed."""
    if load.total:
        file = f"  {load.file}" if load.file else ""
        yield "files", f"{load.done} of {load.total}{file}"
    if load.parameters_total or load.bytes:
        total = "–" if load.parameters_total is None else load.parameters_total
        counted = load.parameters_total or load.parameters
        count = f"{load.parameters} of {total} · " if counted else ""
        speed = "–" if load.bytes_per_s is None else size_text(int(load.bytes_per_s))
        size = f"{size_text(load.bytes)} of {size_text(load.bytes_total)}"
        yield "tensors", f"{count}{size} · {speed}/s"


def waits_label(load: LoadStatus) -> str:
    return "waits in" if load.under_way else "was in"


def wait_text(load: LoadStatus, one: Outstanding) -> str:
    """`a request for 42.0 s, attempt 3 after TimeoutError: HEAD http://…`."""
    kind = "a lock file" if one.waiting == "lock" else f"a {one.waiting}"
    again = f", attempt {one.attempts}" if one.attempts > 1 else ""
    after = f" after {one.last_error}" if one.last_error else ""
    return f"{kind} for {load.waited_s(one):.1f} s{again}{after}: {one.what}"


def size_text(count: int | None) -> str:
    """`1.5 GiB`; `–` where it was not observed."""
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def model_text(placement: Placement) -> str:
    """`LlamaForCausalLM · bfloat16 131.0 GiB · 2 tied names · generation config loaded`."""
    parts = [placement.model_class]
    parts += [f"{dtype} {size_text(size)}" for dtype, size in placement.dtypes.items()]
    if placement.tied:
        parts.append(f"{placement.tied} tied name{'' if placement.tied == 1 else 's'}")
    if placement.generation:
        parts.append(f"generation config {placement.generation}")
    return " · ".join(parts)


def offload_text(placement: Placement) -> str:
    """`1.0 GiB in ram · 1.0 GiB on disk in /scratch`; '' where nothing is offloaded."""
    places = f" in {', '.join(placement.offload_places)}" if placement.offload_places else ""
    ram, disk = placement.bytes_on("ram"), placement.bytes_on("disk")
    told = (
        f"{size_text(ram)} in ram" if ram else "",
        f"{size_text(disk)} on disk{places}" if disk else "",
    )
    return " · ".join(filter(None, told))


def leaked_text(placement: Placement) -> str:
    """`3 parameters lie nowhere: lm_head.weight, …`; '' where none does."""
    count = placement.leaked_count
    if not count:
        return ""
    more = ", …" if count > len(placement.leaked) else ""
    noun = "1 parameter lies" if count == 1 else f"{count} parameters lie"
    return f"{noun} nowhere: {', '.join(placement.leaked)}{more}"


def _placed(placement: Placement) -> Iterable[str]:
    yield _labelled("model", model_text(placement))
    bars = device_bars(placement)
    largest = max((bar.bytes for bar in bars), default=0)
    yield from (_labelled(bar.device, _device(bar, largest)) for bar in bars)
    notes = [("note", note) for note in placement.notes]
    for name, text in (
        ("offload", offload_text(placement)), ("on meta", leaked_text(placement)), *notes
    ):  # fmt: skip
        if text:
            yield _labelled(name, text)


def _device(bar: DeviceBar, largest: int) -> str:
    pieces = device_pieces(bar, largest, CELLS - 24) if bar.modules else ()
    text = "".join(piece.text for piece in pieces)
    noun = "tensor" if bar.tensors == 1 else "tensors"
    return f"{text}│ {size_text(bar.bytes)}, {bar.tensors} {noun}"
