"""How often to do work that keeps everything else waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

CALM = 3.0
"""Seconds of rest for each second of work, while nothing is suspicious."""
PRESSED = 1.0
"""The same while there is a suspicion or a verdict."""
LATE_TURNS = 2.0
"""For how many turns the news of a difference that time makes may be late; then one is taken without."""


def rested_at(began: float, ended: float, rest: float = CALM) -> float:
    """When work that took from `began` to `ended` is due again, on the same clock, in seconds.

    The longer it takes, the more rarely it is done: links and viewers are served in between.

    Args:
        rest: seconds for each second of work.
    """
    return ended + rest * max(0.0, ended - began)


class DutyCycle:
    """When an observer judges.

    Attributes:
        longest_turn_s: how long it was busy of late, at most.
        values_every_s: how often newer values of ranks may make a difference, while there is a suspicion; else 0.
    """

    def __init__(self) -> None:
        self._soonest = self._rested_at = 0.0
        self._changes_at = math.inf
        self.longest_turn_s = self.values_every_s = 0.0

    def is_rested(self, is_news: Callable[[], bool] = lambda: False) -> bool:
        """Whether it is time to judge.

        With very many ranks a turn takes seconds. One that would last beyond the moment at which time itself
        makes a difference is put off until that shows in the news: it would find what the one before it has found.

        Args:
            is_news: whether what has come since shows a difference that time makes.
        """
        now = time.monotonic()
        if now < self._soonest:
            return False
        if self._changes_at < math.inf and is_news():
            return True
        over_s, turn_s = now - self._changes_at, self.longest_turn_s
        return now >= self._rested_at and not -turn_s < over_s < LATE_TURNS * turn_s

    def rest(
        self,
        began: float,
        *,
        pressed: bool,
        burdened: bool = False,
        changes_at: float = math.inf,
    ) -> None:
        """A turn that began then is over (of `time.monotonic`).

        Args:
            pressed: there is a suspicion or a verdict.
            burdened: looks at very many ranks come in: there is more to fold than to judge.
            changes_at: when the passing of time is expected to make a difference.
        """
        done, self._changes_at = time.monotonic(), changes_at
        self._soonest = rested_at(began, done, PRESSED)
        self._rested_at = self._soonest if pressed and not burdened else rested_at(began, done)
        self.longest_turn_s = max(0.9 * self.longest_turn_s, done - began)
        self.values_every_s = self.longest_turn_s if pressed else 0.0

    def end_rest(self) -> None:
        """There is something new to judge."""
        self._soonest = self._rested_at = 0.0
