"""How often work may be done that keeps everything else waiting."""

from __future__ import annotations

CALM = 3.0
"""Seconds of rest for each second of work, while nothing is suspicious."""
PRESSED = 1.0
"""The same while a verdict is near, or stands."""


class Pace:
    """Work that takes long is done more rarely: links and viewers are heard in between.

    Times are of one clock, in seconds; this class reads none.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it has rested for long enough."""
        return now >= self._next

    def note(self, began: float, ended: float, rest: float = CALM) -> None:
        """Work was done from `began` to `ended`; it rests from then on.

        Args:
            rest: seconds for each second of work.
        """
        self._next = ended + rest * max(0.0, ended - began)
