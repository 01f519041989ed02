"""A disk that fills during a run: a report tells afterwards since when, and what that has cost."""

from __future__ import annotations

import json

import pytest

from tests.support.small_memory import run_in_small_memory

pytestmark = pytest.mark.timeout(240)
WHY = "No space left on device"


def test_a_disk_that_stays_full_is_told_from_what_was_reserved() -> None:
    told = json.loads(run_in_small_memory(8, "tests.observer.full_disk", "stays"))
    assert told["free"] == 0
    rank = told["unobserved"]["0"]
    assert rank.startswith("disk: since ")
    assert rank.endswith(f" its records are not on disk: {WHY}")
    (observer,) = (
        why for what, why in told["not_observed"].items() if "observer's journal" in what
    )
    assert observer.startswith("from ")
    assert f"the disk refused observations ({WHY}): " in observer
    assert int(observer.split()[-2]) >= 40
    # What the disk has refused is still in memory, and how it ended is known.
    assert told["newest"] == 1 + 2 * 4100
    assert len(told["rings"]) == 1
    assert told["exit"]


def test_once_there_is_room_again_what_was_in_memory_is_written() -> None:
    told = json.loads(run_in_small_memory(8, "tests.observer.full_disk", "recovers"))
    assert told["free"] == 0
    assert f"the disk refused its records ({WHY}): none lost" in told["unobserved"]["0"]
    assert told["newest"] == 1 + 2 * 4100
    assert told["rings"] == []
