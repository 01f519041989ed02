"""Waiting for what nothing announces: the state of another process, the work of a daemon that is not ours."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE_S = 0.02
"""It leaves the machine to those that are waited for."""


def wait_until(holds: Callable[[], object], what: str = "", *, within_s: float = 60.0) -> None:
    """Asks again and again; fails if that does not come true within the deadline.

    Args:
        what: what is waited for, for that failure.
    """
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, f"{what or holds}: not within {within_s:.0f} s"
        time.sleep(PAUSE_S)
