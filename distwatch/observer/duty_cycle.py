"""How often to do work that keeps everything else waiting."""

from __future__ import annotations

import math
import time

CALM = 3.0
"""Seconds of rest for each second of work, while nothing is suspicious."""
PRESSED = 1.0
"""The same while there is a suspicion or a verdict."""


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
    """

    def __init__(self) -> None:
        self._rested_at = 0.0
        self._changes_at = math.inf
        self.longest_turn_s = 0.0

    def is_rested(self) -> bool:
        """Whether it is time to judge.

        A turn that would still last when time itself makes a difference is put off until then: with very many
        ranks it takes seconds, and would find what the one before it has found.
        """
        now = time.monotonic()
        is_near = now < self._changes_at < now + self.longest_turn_s
        return now >= self._rested_at and not is_near

    def rest(self, began: float, *, pressed: bool, changes_at: float = math.inf) -> None:
        """A turn that began then is over (of `time.monotonic`).

        Args:
            pressed: the next one is to come soon.
            changes_at: when the passing of time makes a difference: the rest ends there, if it was long enough.
        """
        done, self._changes_at = time.monotonic(), changes_at
        soonest = rested_at(began, done, PRESSED)
        usual = soonest if pressed else rested_at(began, done)
        self._rested_at = max(soonest, min(usual, changes_at))
        self.longest_turn_s = max(0.9 * self.longest_turn_s, done - began)

    def end_rest(self) -> None:
        """There is something new to judge."""
        self._rested_at = 0.0
