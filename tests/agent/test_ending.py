"""What a rank that is to end itself calls late."""

from __future__ import annotations

import time

import pytest

from distwatch.agent.ending import overdue
from distwatch.state.events import GroupProgress, StepStarted

DEADLINES = {"collective": 10.0, "load": 20.0}


def ago(seconds: float) -> int:
    return time.monotonic_ns() - int(seconds * 1e9)


@pytest.mark.parametrize(
    ("enqueued", "completed", "waited_s", "late"),
    [
        (5, 4, 11, "collective #5 of group 0"),
        (5, 3, 11, "collective #4 of group 0"),
        (1, -1, 11, "collective #1 of group 0"),
        (5, 4, 5, ""),
        (5, 5, 11, ""),
        (5, -1, 11, ""),
        (-1, -1, 11, ""),
    ],
)
def test_collectives(enqueued: int, completed: int, waited_s: float, late: str) -> None:
    group = GroupProgress(
        pg_name="0", enqueued=enqueued, completed=completed, changed_ns=ago(waited_s)
    )
    told = overdue([group], [], ago(0), DEADLINES)
    assert told.startswith(late) if late else not told


def test_a_load_is_late_when_nothing_moves_and_not_since_it_is_long() -> None:
    load = StepStarted(step=1, name="from_pretrained")
    assert "from_pretrained" in overdue([], [load], ago(21), DEADLINES)
    assert not overdue([], [load], ago(5), DEADLINES)
    assert not overdue([], [StepStarted(step=1, name="new_group")], ago(21), DEADLINES)
