"""When looks at what is suspicious are due: at once, and then less and less often."""

from __future__ import annotations

import time
from collections.abc import Sequence

QUIET_AFTER_S = 60.0
"""A step that is slow again and again is not a new suspicion each time."""


class Rounds:
    """The rounds of looks at one suspicion; the first one is due at once.

    Args:
        pauses_s: between the first two rounds, and so on; the last one for good.
    """

    def __init__(self, pauses_s: Sequence[float]) -> None:
        self._pauses_s = pauses_s
        self._made = 0
        self._due = 0.0
        self._suspected = 0.0

    def are_due(self, why: str) -> bool:
        """Whether a round is due for that reason; '': nothing is suspicious."""
        now = time.monotonic()
        if why:
            self._suspected = now
            return now >= self._due
        if self.are_over:
            self._made, self._due = 0, 0.0
        return False

    @property
    def are_over(self) -> bool:
        """Whether nothing has been suspicious for so long that the next suspicion is a new one."""
        return time.monotonic() - self._suspected > QUIET_AFTER_S

    def begin(self) -> None:
        """Notes that a round begins now."""
        self._due = time.monotonic() + self._pauses_s[min(self._made, len(self._pauses_s) - 1)]
        self._made += 1

    def again_soon(self) -> None:
        """What is suspicious has changed: the next round need not wait."""
        self._made, self._due = min(self._made, 1), 0.0

    def again_in(self, seconds: float) -> None:
        """The next round is due then, whatever the pause."""
        self._due = time.monotonic() + seconds
