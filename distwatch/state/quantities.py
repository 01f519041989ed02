"""Sizes, durations and counts as people read them."""

from __future__ import annotations


def bytes_text(count: int | None, unknown: str = "unknown", exact_below: int = 10) -> str:
    """`64 B`, `1.8 GiB`, `131 GiB`; tenths are told below `exact_below`."""
    if count is None:
        return unknown
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= exact_below else f"{size:.1f} {unit}"


def seconds(value: float) -> str:
    """`4.2 s`, `73 s`, `12 min`, `3.5 h`."""
    if value < 180:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def count_of(number: int, noun: str) -> str:
    """`1 rank`, `4 ranks`, `2 processes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
