"""How often to do work that keeps everything else waiting."""

from __future__ import annotations

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
