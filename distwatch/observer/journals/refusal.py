"""A disk that refuses writes: since when, why, and how many records were lost."""

from __future__ import annotations

import time


class Refusal:
    """The periods in which a disk refuses a journal's records, one after the other.

    Attributes:
        lost: how many records the current period has cost so far.
    """

    def __init__(self, what: str) -> None:
        """`what`: a name for the records, for people."""
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
        """A sentence about the current period; it changes only with the reason."""
        return f"since {self._since} {self._what} are not on disk: {self._why}"

    def note(self, error: OSError, lost: int = 1) -> bool:
        """Notes that the disk has refused so many records. Returns whether that, or why, is new."""
        before = self.standing if self.stands else ""
        self._since = self._since or _clock()
        self._why = error.strerror or str(error)
        self.lost += lost
        return self.standing != before

    def finish(self, lost: int | None = None) -> str:
        """Ends the period: the disk works again, or writing has ended. Returns a sentence about it.

        Args:
            lost: how many records are lost for good, if that is known only now.
        """
        cost = (self.lost if lost is None else lost) or "none"
        refused = f"the disk refused {self._what} ({self._why})"
        told = f"from {self._since} to {_clock()} {refused}: {cost} lost"
        self.lost, self._since = 0, ""
        return told


def _clock() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
