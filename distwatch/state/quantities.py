"""Sizes and durations as people read them."""

from __future__ import annotations


def bytes_text(count: int | None) -> str:
    """`64 MiB`, `1.8 GiB`; 'unknown' for None."""
    if count is None:
        return "unknown"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def seconds(value: float) -> str:
    """`4.2 s`, `73 s`, `12 min`."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 180 else f"{value / 60:.0f} min"
