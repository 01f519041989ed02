"""The end of a rank that was asked to end itself when it hangs: DISTWATCH_ON_HANG=abort."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import NoReturn, Protocol

from distwatch.state.events import GAVE_UP, Event, GroupProgress, ProcessEnding, StepStarted
from distwatch.state.steps import COLLECTIVE, kind_of

EXIT_CODE = 75
"""EX_TEMPFAIL: whoever restarts the job may try again."""


class Rank(Protocol):
    """What can still be written of a rank that is about to end: the agent."""

    def record(self, event: Event) -> None: ...

    def dump(self, reason: str) -> None: ...

    def beat(self) -> None: ...


def overdue(
    progress: Iterable[GroupProgress],
    open_steps: Iterable[StepStarted],
    moved_ns: int,
    deadlines: Mapping[str, float],
) -> str:
    """A collective or a load that is late, in words; '' where none is.

    What is supervised where it is called is judged there, and everything by the observer: this is
    for the rank that is to end itself.

    Args:
        moved_ns: when any step of this process last moved.
        deadlines: seconds by kind of step.
    """
    now = time.monotonic_ns()
    for group in progress:
        waited_s = (now - group.changed_ns) / 1e9
        if group.in_flight and waited_s > deadlines[COLLECTIVE.name]:
            number = max(group.completed, 0) + 1
            return f"collective #{number} of group {group.pg_name} has waited for {waited_s:.0f} s"
    stalled_s = (now - moved_ns) / 1e9
    for step in open_steps:
        kind = kind_of(step.name)
        if kind is not None and not kind.supervised and stalled_s > deadlines[kind.name]:
            return f"{step.name} has not moved for {stalled_s:.0f} s"
    return ""


def end_rank(rank: Rank, why: object) -> NoReturn:
    """Leaves everything on record, says why, and ends the process at once.

    The hanging call cannot be left in any other way, so nothing of Python's own exit runs.
    """
    rank.dump("abort")
    rank.record(ProcessEnding(reason=f"{GAVE_UP}: {why}"[:500]))
    rank.beat()
    print(
        f"distwatch: {why}\ndistwatch: {GAVE_UP} ends pid {os.getpid()} with exit code {EXIT_CODE}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_CODE)
