"""Cells of model loads: one load, or one part of it → a few styled characters. Pure."""

from __future__ import annotations

from rich.text import Text

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import Outstanding, Placement
from distwatch.tui.cells import clip_middle, count_of, dotted, format_age, format_bytes
from distwatch.tui.styles import BLUE, FAINT, GREEN, MUTED, RED, STRONG, UNKNOWN, VIOLET, YELLOW
from distwatch.views.load_groups import LoadGroup
from distwatch.views.load_timeline import (
    DeviceBar,
    Piece,
    Span,
    device_pieces,
    spans_of,
    timeline_pieces,
)

_BAR = 24
_DEVICE_TEXT = 24
_WAITING = {
    "request": "a request",
    "download": "a download",
    "lock": "a lock file",
    "file": "a file",
}


def outcome_cell(group: LoadGroup) -> Text:
    """How it stands: `moved 42 s ago, began 58 s ago`, `loaded in 3.1 s`, `✗ failed after 3.1 s`."""
    load = group.load
    if load.under_way:
        moved = Text(f"moved {format_age(load.still_s)} ago", YELLOW if load.still_s > 10 else "")
        return Text.assemble(moved, (f", began {format_age(load.took_s)} ago", MUTED))
    if load.cut_off:
        end = f"✗ its process ended after {format_age(load.took_s)}"
        return Text(f"{end}, moved {format_age(load.still_s)} before", RED)
    several = format_age(group.quickest_s) != format_age(load.took_s)
    took = f"{format_age(group.quickest_s)} to " if several else ""
    took += format_age(load.took_s)
    if load.error:
        return Text(f"✗ failed after {took}", RED)
    return Text.assemble(("✓ ", GREEN), (f"loaded in {took}", MUTED))


def timeline_cell(load: LoadStatus, width: int) -> Text:
    """The phases to scale; an open end is an arrow."""
    spans = spans_of(load)
    text = Text()
    for piece in timeline_pieces(spans, width - 1):
        text.append(piece.text, _span_style(spans[piece.place]))
    return text.append("▸" if load.under_way else "✗" if load.cut_off else "│", FAINT)


def _span_style(span: Span) -> str:
    if span.error:
        return RED
    if not span.number:
        return FAINT
    return f"bold {VIOLET}" if span.under_way else BLUE if span.number % 2 else MUTED


def phases_cell(load: LoadStatus, width: int) -> Text:
    """What the numbers of the timeline are: failed and longest first, so that a cut costs least."""
    spans = sorted(spans_of(load), key=lambda s: (not s.error, not s.under_way, -s.took_s))
    shown = [span for span in spans if span.number or span.took_s > 1]
    return dotted(phase_cell(span, load.error) for span in shown)


def phase_cell(span: Span, told: str | None = None) -> Text:
    """`4 shards 45 s so far`, `4 shards 45 s ✗ OSError: …`.

    Args:
        told: an error that stands elsewhere already.
    """
    took = format_age(span.took_s)
    if not span.number:
        return Text(f"outside all phases {took}", FAINT)
    text = Text.assemble((f"{span.number} {span.name} ", _span_style(span)), (took, MUTED))
    if span.under_way:
        text.append(" so far", MUTED)
    if span.error:
        text.append(" ✗" if span.error == told else f" ✗ {one_line(span.error)}", RED)
    return text


def files_cell(load: LoadStatus, width: int) -> Text:
    """`████░░░░ shards 3 of 7  model-00003-of-00007.safetensors`"""
    count = f" {load.phase or 'file'} {load.done} of {load.total}"
    return Text.assemble(
        bar_cell(load.done / load.total if load.total else None, _bar_width(width)),
        count, "  ", (load.file, MUTED),
    )  # fmt: skip


def tensors_cell(load: LoadStatus, width: int) -> Text:
    """`███░░░ 120 of 723 · 12.1 GiB of 131 GiB · 1.2 GiB/s`"""
    if not load.parameters_total and not load.bytes:
        return Text("nothing to count yet", FAINT)
    total, speed = load.parameters_total, load.bytes_per_s
    parts = [Text(f"{format_bytes(load.bytes)} of {format_bytes(load.bytes_total)}")]
    if total or load.parameters:  # files are fetched before there are any
        parts.insert(0, Text(f"{load.parameters} of {UNKNOWN if total is None else total}"))
    rate = UNKNOWN if speed is None else f"{format_bytes(int(speed))}/s"
    told = dotted([*parts, Text(rate, YELLOW if speed == 0 else "")])
    share = load.share if total or load.bytes_total else None
    return Text.assemble(bar_cell(share, _bar_width(width)), " ", told)


def _bar_width(width: int) -> int:
    return _BAR if width >= 80 else _BAR // 2


def bar_cell(share: float | None, width: int) -> Text:
    """`████░░░░`; dots where it is not known how much there is to do."""
    if share is None:
        return Text("·" * width, FAINT)
    filled = round(min(1.0, max(0.0, share)) * width)
    return Text.assemble(("█" * filled, VIOLET), ("░" * (width - filled), FAINT))


def wait_cell(load: LoadStatus, outstanding: Outstanding, width: int) -> Text:
    """`a request for 42 s, attempt 3 after TimeoutError  HEAD http://…`"""
    waited = load.waited_s(outstanding)
    text = Text.assemble(
        (_WAITING[outstanding.waiting], STRONG),
        (f" for {format_age(waited)}", YELLOW if waited > 10 else ""),
    )
    if outstanding.attempts > 1:
        text.append(f", attempt {outstanding.attempts}", YELLOW)
    if outstanding.last_error:
        # The error says more than the end of an address, and both must fit.
        error = Text(one_line(outstanding.last_error), RED)
        error.truncate(max(16, width // 3), overflow="ellipsis")
        text.append(" after ").append_text(error)
    room = max(16, width - text.cell_len - 2)
    return text.append(f"  {clip_middle(one_line(outstanding.what), room)}")


def model_cell(placement: Placement, width: int) -> Text:
    """`LlamaForCausalLM · bfloat16 131 GiB · 2 tied · generation config loaded`"""
    parts = [Text(placement.model_class, STRONG)]
    parts += [Text(f"{dtype} {format_bytes(size)}") for dtype, size in placement.dtypes.items()]
    if placement.tied:
        parts.append(Text(f"{count_of(placement.tied, 'tied name')}", MUTED))
    if placement.generation:
        lost = placement.generation == "lost"
        parts.append(Text(f"generation config {placement.generation}", YELLOW if lost else MUTED))
    return dotted(parts)


def device_cell(bar: DeviceBar, largest: int, width: int) -> Text:
    """`│embed_tokens─│layers.0-15──────────│  61.2 GiB, 291 tensors`"""
    told = f"  {format_bytes(bar.bytes)}, {count_of(bar.tensors, 'tensor')}"
    if not bar.modules:
        return Text.assemble(("│", FAINT), (told, MUTED), (" (buffers)", FAINT))
    text = Text()
    pieces = device_pieces(bar, largest, max(4, width - _DEVICE_TEXT - 1))
    for number, piece in enumerate(pieces):
        text.append(piece.text, _module_style(bar, piece, number))
    return text.append("│", FAINT).append(told, MUTED)


def _module_style(bar: DeviceBar, piece: Piece, number: int) -> str:
    if piece.place < 0:
        return FAINT
    if bar.is_nowhere:
        return RED
    return (YELLOW if bar.is_offloaded else BLUE) if number % 2 == 0 else MUTED


def offload_cell(placement: Placement, width: int) -> Text:
    """`512 MiB in ram · 1.5 GiB on disk in /scratch/offload`"""
    parts = []
    if ram := placement.bytes_on("ram"):
        parts.append(Text(f"{format_bytes(ram)} in ram", YELLOW))
    if disk := placement.bytes_on("disk"):
        places = f" in {', '.join(placement.offload_places)}" if placement.offload_places else ""
        parts.append(Text(f"{format_bytes(disk)} on disk{places}", YELLOW))
    return dotted(parts)


def leaked_cell(placement: Placement, width: int) -> Text:
    """`✗ 3 parameters lie nowhere: lm_head.weight, …`"""
    count = placement.leaked_count
    more = ", …" if count > len(placement.leaked) else ""
    lie = "lies" if count == 1 else "lie"
    head = f"✗ {count_of(count, 'parameter')} {lie} nowhere: "
    return Text.assemble((head, f"bold {RED}"), f"{', '.join(placement.leaked)}{more}")


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())
