"""Sizes, durations and counts as text."""

from __future__ import annotations

_MOST_DIGITS = 18


def bytes_text(count: int | None, unknown: str = "unknown", exact_below: int = 10) -> str:
    """`64 B`, `1.8 GiB`, `131 GiB`; with one decimal below `exact_below`."""
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


def bytes_of(text: str) -> int | None:
    """The bytes in `512KiB`, `2 MiB`, `64K` or `1048576`; None for any other text."""
    text = text.strip().upper()
    for exponent, unit in enumerate("KMGT", 1):
        for suffix in (f"{unit}IB", unit):
            if text.endswith(suffix):
                number = _number(text.removesuffix(suffix))
                return None if number is None else int(number * 1024**exponent)
    number = _number(text)
    return None if number is None else int(number)


def seconds_of(text: str) -> float | None:
    """The seconds in `90s`, `30m`, `12h` or `7d`; None for any other text."""
    text = text.strip().lower()
    number, unit = _number(text[:-1]), {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    return None if number is None or unit is None else number * unit


def _number(text: str) -> float | None:
    whole, _, part = text.strip().partition(".")
    digits = whole + part
    # More digits could be more than a float holds.
    sound = whole and digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS
    return float(text) if sound else None
