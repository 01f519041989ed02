"""How often to do work that keeps everything else waiting."""

from __future__ import annotations

CALM = 3.0
"""Seconds of rest for each second of work, while nothing is suspicious."""
PRESSED = 1.0
"""The same while there is a suspicion or a verdict."""


class Pace:
    """The longer the work takes, the more rarely it is done: links and viewers are served in between.

    Times are of one clock, in seconds; this class reads none.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        """Whether the rest is over."""
        return now >= self._next

    def note(self, began: float, ended: float, rest: float = CALM) -> None:
        """Notes that work took from `began` to `ended`; the rest begins.

        Args:
            rest: seconds for each second of work.
        """
        self._next = ended + rest * max(0.0, ended - began)
