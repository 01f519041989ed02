"""How often work may be done that keeps everything else waiting."""

from __future__ import annotations

REST = 2.0
"""Seconds of rest for each second of work."""


class Pace:
    """Work that takes long is done more rarely: links and viewers are heard in between.

    Times are of one clock, in seconds; this class reads none.
    """

    def __init__(self, rest: float = REST) -> None:
        self._rest = rest
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it has rested for long enough."""
        return now >= self._next

    def note(self, began: float, ended: float) -> None:
        """Work was done from `began` to `ended`; it rests from then on."""
        self._next = ended + self._rest * max(0.0, ended - began)

    def rest_s(self, now: float) -> float:
        """For how long it has to rest still; 0 where it is due."""
        return max(0.0, self._next - now)
