"""A rank's wait in a collective that has not completed."""

from __future__ import annotations

import msgspec

KILLED_WHILE_WAITING_S = 5.0
"""A wait this long at the end of a job that was killed is reported as its hang."""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A rank inside a collective that has not completed."""

    global_rank: int
    pg_name: str
    members: tuple[int, ...]
    seq: int = -1
    """The oldest collective of the group that this rank has entered and not completed; -1: one without a number."""
    op: str = "collective"
    """What it is, where no number tells."""
    waited_s: float
    deadline_s: float
    killed: bool = False
    """The rank was ended from outside while it waited."""
    timed_out: bool = False
    """torch's own timeout ended the wait, and the rank with it."""

    @property
    def call(self) -> str:
        """`collective #5`, `monitored_barrier`."""
        return self.op if self.seq < 0 else f"{self.op} #{self.seq}"

    @property
    def overdue(self) -> bool:
        if self.timed_out:
            return True
        # Ended from outside: no rank could wait out the deadline, so a shorter one applies.
        limit_s = min(KILLED_WHILE_WAITING_S, self.deadline_s) if self.killed else self.deadline_s
        return self.waited_s > limit_s
