"""A load as bars: its phases to scale on a timeline, and each device's part of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import ModuleDevice, Placement

OFFLOADED = ("ram", "disk")
NOWHERE = "meta"
_GAP_CELLS = 2
"""Time between phases is not drawn where it takes less than this."""
_MODULE_CELLS = 2
"""The smallest number of cells that shows a module."""
_COUNTED_FROM = 10
"""Cells of a bar with room to count the modules that it does not show."""
_NUMBERED = re.compile(r"^(.*\.)?(\d+)$")


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a load's time, in seconds since it began."""

    number: int
    """The number of the phase, from 1; 0 for time outside all phases."""
    name: str
    began_s: float
    ended_s: float
    under_way: bool = False
    error: str | None = None

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Some cells of a bar, and the part of the bar that they show."""

    text: str
    place: int


class DeviceBar(msgspec.Struct, frozen=True, kw_only=True):
    """One device's part of a model."""

    device: str
    bytes: int
    """Parameters and buffers."""
    tensors: int
    modules: tuple[ModuleDevice, ...]
    """Neighbours of one kind are one entry: `model.layers.0-15`."""

    @property
    def is_offloaded(self) -> bool:
        return self.device in OFFLOADED

    @property
    def is_nowhere(self) -> bool:
        return self.device == NOWHERE


def spans_of(load: LoadStatus) -> list[Span]:
    """The whole time of a load without overlaps: its phases, and the time between them."""
    spans: list[Span] = []
    at = 0.0
    for number, phase in enumerate(load.phases, 1):
        began = min(max(at, phase.began_s), load.took_s)
        ended = load.took_s if phase.ended_s is None else min(phase.ended_s, load.took_s)
        if began > at:
            spans.append(Span(number=0, name="", began_s=at, ended_s=began))
        at = max(began, ended)
        spans.append(
            Span(
                number=number,
                name=phase.name,
                began_s=began,
                ended_s=at,
                under_way=phase.ended_s is None and load.under_way,
                error=phase.error,
            )
        )
    if load.took_s > at:
        spans.append(Span(number=0, name="", began_s=at, ended_s=load.took_s))
    return spans


def timeline_pieces(spans: Sequence[Span], cells: int) -> list[Piece]:
    """The spans as `│1 config───│2 model──────`: every phase has its number."""
    whole_s = sum(span.took_s for span in spans) or 1.0
    shown = [
        place
        for place, span in enumerate(spans)
        if span.number or span.took_s * cells / whole_s >= _GAP_CELLS
    ]
    while len(shown) > 1 and sum(_least(spans[place]) for place in shown) > cells:
        shown.remove(min(shown, key=lambda place: (spans[place].number > 0, spans[place].took_s)))
    widths = divide(
        [spans[place].took_s for place in shown], cells, [_least(spans[place]) for place in shown]
    )
    return [
        Piece(text=_span_text(spans[place], width), place=place)
        for place, width in zip(shown, widths, strict=True)
        if width
    ]


def _least(span: Span) -> int:
    return 1 + len(str(span.number)) + bool(span.error) if span.number else 0


def _span_text(span: Span, width: int) -> str:
    if not span.number:
        return f"│{'·' * (width - 1)}"
    end = "✗" if span.error else ""
    room = width - 1 - len(end)
    label, number = f"{span.number} {span.name}", str(span.number)
    if len(label) > room:
        # Three letters of a name are the fewest that mean something.
        label = f"{label[: room - 1]}…" if room >= len(number) + 5 else number[:room]
    fill = "┄" if span.under_way else "─"
    return f"│{label}{fill * (room - len(label))}{end}"


def device_bars(placement: Placement) -> list[DeviceBar]:
    """Each device with its modules: working devices, then offload places, then modules on no device."""
    held = {device.device: device for device in placement.devices}
    names = [*held, *(module.device for module in placement.modules)]
    bars = [
        DeviceBar(
            device=name,
            bytes=placement.bytes_on(name),
            tensors=held[name].tensors if name in held else 0,
            modules=tuple(_runs([module for module in placement.modules if module.device == name])),
        )
        for name in dict.fromkeys(names)
    ]
    return sorted(bars, key=lambda bar: (bar.is_nowhere, bar.is_offloaded))


def _runs(modules: list[ModuleDevice]) -> list[ModuleDevice]:
    """`layers.0`, `layers.1`, `layers.2` → `layers.0-2`."""
    found: list[ModuleDevice] = []
    newest: tuple[str, int] | None = None
    for module in modules:
        numbered = _NUMBERED.match(module.module)
        here = (numbered[1] or "", int(numbered[2])) if numbered else None
        if here and newest and here == (newest[0], newest[1] + 1):
            first = found[-1].module.removeprefix(here[0]).partition("-")[0]
            found[-1] = msgspec.structs.replace(
                found[-1],
                module=f"{here[0]}{first}-{here[1]}",
                bytes=found[-1].bytes + module.bytes,
            )
        else:
            found.append(module)
        newest = here
    return found


def device_pieces(bar: DeviceBar, largest: int, cells: int) -> list[Piece]:
    """A device's modules side by side, to scale with the device that holds the most.

    Args:
        largest: bytes of that device; its bar fills all cells.
    """
    width = max(min(cells, 6), round(cells * bar.bytes / largest)) if largest else cells
    modules = bar.modules
    by_size = sorted(range(len(modules)), key=lambda place: -modules[place].bytes)
    room = width // _MODULE_CELLS
    if len(modules) > room and width >= _COUNTED_FROM:
        room = (width - len(f"│+{len(modules)}")) // _MODULE_CELLS
    kept = sorted(by_size[:room])
    left = len(modules) - len(kept)
    more = f"│+{left}" if left and width >= _COUNTED_FROM else ""
    sizes = [modules[place].bytes for place in kept]
    widths = divide(sizes, width - len(more), [_MODULE_CELLS] * len(kept))
    pieces = [
        Piece(text=f"│{_short(modules[place].module or 'whole model', size - 1):─<{size - 1}}", place=place)
        for place, size in zip(kept, widths, strict=True)
    ]  # fmt: skip
    return [*pieces, Piece(text=more, place=-1)] if more else pieces


def module_label(name: str) -> str:
    """The part of a module's name that sets it apart: `layers.0-15`, `embed_tokens`."""
    *above, last = (name or "whole model").split(".")
    return f"{above[-1]}.{last}" if above and last[:1].isdigit() else last


def _short(name: str, room: int) -> str:
    """The end of a module's name says the most: `model.layers.0-15`, `layers.0-15`, `0-15`."""
    while len(name) > room and "." in name:
        name = name.partition(".")[2]
    return name if len(name) <= room else f"{name[: room - 1]}…" if room >= 4 else name[:room]


def divide(amounts: Sequence[float], cells: int, least: Sequence[int]) -> list[int]:
    """Divides `cells` by amounts, each part with its least, as exactly as whole cells allow."""
    widths = [0.0] * len(amounts)
    free = set(range(len(amounts)))
    room = float(cells)
    while free:
        total = sum(amounts[n] for n in free)
        ideal = {n: room * amounts[n] / total if total else room / len(free) for n in free}
        small = [n for n in free if ideal[n] < least[n]]
        if not small:
            for n in free:
                widths[n] = ideal[n]
            break
        for n in small:
            widths[n] = least[n]
            room -= least[n]
        free -= set(small)
        room = max(room, 0.0)
    whole = [int(width + 1e-9) for width in widths]
    spare = cells - sum(whole)
    by_rest = sorted(range(len(widths)), key=lambda n: whole[n] - widths[n])
    for n in by_rest[: max(0, spare)]:
        whole[n] += 1
    return whole
