"""Cells of model loads: one load, or a part of one → a few styled characters. Pure."""

from __future__ import annotations

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import Outstanding
from distwatch.state.quantities import count_of
from distwatch.tui.cells import clip_middle, format_bytes
from distwatch.tui.styles import BLUE, FAINT, GREEN, MUTED, RED, STRONG, VIOLET, YELLOW
from distwatch.tui.visible_text import Text
from distwatch.views import load_text, load_timeline

_BAR = 24
_DEVICE_TEXT = 24
_STYLES: dict[load_text.Tone, str] = {
    "": "", "strong": STRONG, "muted": MUTED, "faint": FAINT, "good": GREEN, "late": YELLOW,
    "bad": RED, "alarm": f"bold {RED}", "now": f"bold {VIOLET}", "odd": BLUE,
}  # fmt: skip


def styled(words: load_text.Words) -> Text:
    """The words in the colours of their tones."""
    return Text.assemble(*((text, _STYLES[tone]) for text, tone in words))


def timeline_cell(load: LoadStatus, width: int) -> Text:
    """The phases to scale; an arrow marks an open end."""
    spans = load_timeline.spans_of(load)
    text = Text()
    for piece in load_timeline.timeline_pieces(spans, width - 1):
        text.append(piece.text, _STYLES[load_text.span_tone(spans[piece.place])])
    return text.append("▸" if load.under_way else "✗" if load.cut_off else "│", FAINT)


def phases_cell(load: LoadStatus, width: int) -> Text:
    """The names of the timeline's numbers: failed and longest first, so a cut costs least."""
    spans = sorted(
        load_text.shown_spans(load), key=lambda s: (not s.error, not s.under_way, -s.took_s)
    )
    return styled(load_text.dotted(load_text.span_words(span, load) for span in spans))


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
    share = load.share if load.parameters_total or load.bytes_total else None
    return Text.assemble(bar_cell(share, _bar_width(width)), " ", styled(load_text.counted(load)))


def _bar_width(width: int) -> int:
    return _BAR if width >= 80 else _BAR // 2


def bar_cell(share: float | None, width: int) -> Text:
    """`████░░░░`; dots where the total is not known."""
    if share is None:
        return Text("·" * width, FAINT)
    filled = round(min(1.0, max(0.0, share)) * width)
    return Text.assemble(("█" * filled, VIOLET), ("░" * (width - filled), FAINT))


def wait_cell(load: LoadStatus, outstanding: Outstanding, width: int) -> Text:
    """`a request for 42 s, attempt 3 after TimeoutError  HEAD http://…`"""
    text = styled(load_text.wait_words(load, outstanding))
    if outstanding.last_error:
        # The error says more than the end of an address, and both must fit.
        error = Text(load_text.one_line(outstanding.last_error), RED)
        error.truncate(max(16, width // 3), overflow="ellipsis")
        text.append(" after ").append_text(error)
    room = max(16, width - text.cell_len - 2)
    return text.append(f"  {clip_middle(load_text.one_line(outstanding.what), room)}")


def device_cell(bar: load_timeline.DeviceBar, largest: int, width: int) -> Text:
    """`│embed_tokens─│layers.0-15──────────│  61.2 GiB, 291 tensors`"""
    told = f"  {format_bytes(bar.bytes)}, {count_of(bar.tensors, 'tensor')}"
    if not bar.modules:
        return Text.assemble(("│", FAINT), (told, MUTED), (" (buffers)", FAINT))
    text = Text()
    pieces = load_timeline.device_pieces(bar, largest, max(4, width - _DEVICE_TEXT - 1))
    for number, piece in enumerate(pieces):
        text.append(piece.text, _module_style(bar, piece, number))
    return text.append("│", FAINT).append(told, MUTED)


def _module_style(bar: load_timeline.DeviceBar, piece: load_timeline.Piece, number: int) -> str:
    if piece.place < 0:
        return FAINT
    if bar.is_nowhere:
        return RED
    return (YELLOW if bar.is_offloaded else BLUE) if number % 2 == 0 else MUTED
