"""DISTWATCH_ON_HANG=abort: a rank that hangs ends itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from distwatch.state.events import GroupProgress, StepStarted
from distwatch.state.quantities import seconds
from distwatch.state.steps import COLLECTIVE, kind_of

EXIT_CODE = 75
"""EX_TEMPFAIL: restarting the job may help."""


def overdue(
    progress: Iterable[GroupProgress],
    open_steps: Iterable[StepStarted],
    moved_ns: int,
    deadlines: Mapping[str, float],
) -> str:
    """A sentence about a collective or a load that is late; '' where none is.

    Calls with their own supervision are judged there, and the observer judges everything. This is only
    for a rank that must end itself.

    Args:
        moved_ns: when any step of this process last made progress.
        deadlines: seconds by kind of step.
    """
    now = time.monotonic_ns()
    for group in progress:
        waited_s = (now - group.changed_ns) / 1e9
        if group.in_flight and waited_s > deadlines[COLLECTIVE.name]:
            number = max(group.completed, 0) + 1
            return (
                f"collective #{number} of group {group.pg_name} has waited for {seconds(waited_s)}"
            )
    stalled_s = (now - moved_ns) / 1e9
    for step in open_steps:
        kind = kind_of(step.name)
        if kind is not None and not kind.supervised and stalled_s > deadlines[kind.name]:
            return f"{step.name} has not moved for {seconds(stalled_s)}"
    return ""
