"""Whether it is worth listing a folder again: one with a file for each of ten thousand ranks is slow to list."""

from __future__ import annotations

import os
import time

CLOCK_TICK_NS = 2_500_000_000
"""Changes within one tick of a file system's clock have the same time; the longest ticks last two seconds."""


class NewNames:
    """Tells whether a folder may have names that were not there when it was last listed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._listed_ns = 0
        """The folder's change that the newest listing shows for certain; 0: none."""

    def may_be_there(self) -> bool:
        """False: there are none. True: the caller lists it now."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
        except OSError:
            return True
        if time.time_ns() - changed_ns <= CLOCK_TICK_NS:
            self._listed_ns = 0
        elif changed_ns == self._listed_ns:
            return False
        else:
            self._listed_ns = changed_ns
        return True

    def forget(self) -> None:
        """What was found was not complete: it is to be listed again."""
        self._listed_ns = 0
