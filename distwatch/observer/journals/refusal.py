"""A disk that refuses what is written to it: since when, why, and what that has cost."""

from __future__ import annotations

import time


class Refusal:
    """One time after the other in which a disk refused a journal's records.

    Attributes:
        lost: how many records this time has cost so far.
    """

    def __init__(self, what: str) -> None:
        """`what`: the records, for people."""
        self.lost = 0
        self._what = what
        self._since = ""
        self._why = ""

    @property
    def stands(self) -> bool:
        """Whether the disk refuses now."""
        return bool(self._since)

    @property
    def standing(self) -> str:
        """What holds while the disk refuses; the same sentence as long as the reason is the same."""
        return f"since {self._since} {self._what} are not on disk: {self._why}"

    def note(self, error: OSError, lost: int = 1) -> None:
        """The disk has refused so many records."""
        self._since = self._since or _clock()
        self._why = error.strerror or str(error)
        self.lost += lost

    def finish(self, lost: int | None = None) -> str:
        """The disk takes records again, or nobody writes any more; what the time was and has cost.

        Args:
            lost: how many records are gone for good, where that is known only now.
        """
        cost = (self.lost if lost is None else lost) or "none"
        refused = f"the disk refused {self._what} ({self._why})"
        told = f"from {self._since} to {_clock()} {refused}: {cost} lost"
        self.lost, self._since = 0, ""
        return told


def _clock() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
