"""A row of numbers as a line of eight heights."""

from __future__ import annotations

from collections.abc import Sequence

from distwatch.tui.styles import BLUE, FAINT
from distwatch.tui.visible_text import Text

_HEIGHTS = "▁▂▃▄▅▆▇█"
_MISSING = "·"


def sparkline(values: Sequence[float | None], most: float | None = None) -> Text:
    """`··▂▅█▇▁`: a value that is not known is a dot, never a zero.

    Args:
        most: the value of full height; default: the largest.
    """
    top = most or max((value for value in values if value is not None), default=0.0)
    text = Text()
    for value in values:
        if value is None:
            text.append(_MISSING, FAINT)
        else:
            share = min(1.0, max(0.0, value / top)) if top else 0.0
            text.append(_HEIGHTS[round(share * (len(_HEIGHTS) - 1))], BLUE if value else FAINT)
    return text
