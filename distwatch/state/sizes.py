"""Sizes as people read them."""

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
