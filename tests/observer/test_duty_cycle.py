"""Judging rests in proportion to what it cost."""

from __future__ import annotations

import math
import time

import pytest

from distwatch.observer.duty_cycle import CALM, PRESSED, DutyCycle, rested_at


def test_quick_work_is_due_at_every_tick():
    assert rested_at(10.0, 10.005) < 10.5


def test_long_work_rests_for_a_multiple_of_its_time():
    assert rested_at(10.0, 12.0) == 12.0 + 2 * CALM


def test_while_a_verdict_is_near_it_rests_less():
    assert rested_at(10.0, 12.0, PRESSED) == 14.0


def test_a_clock_that_stood_still_lets_it_go_on():
    assert rested_at(10.0, 9.0) == 9.0


@pytest.mark.parametrize(
    ("blocked", "folding", "changes_at", "rests_s"),
    [
        pytest.param(False, False, math.inf, 2, id="suspicion"),
        pytest.param(True, True, math.inf, 6, id="a verdict, and looks come in"),
        pytest.param(False, True, 117.0, 5, id="looks come in until the deadline"),
        pytest.param(False, True, math.inf, 2, id="looks come in after it, and nobody is blamed"),
    ],
)
def test_what_comes_in_is_folded_first_unless_it_decides(
    monkeypatch: pytest.MonkeyPatch, blocked: bool, folding: bool, changes_at: float, rests_s: int
) -> None:
    """The turn began at 110 and took 2 s."""
    now = [112.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    duty = DutyCycle()
    duty.rest(110.0, pressed=True, blocked=blocked, folding=folding, changes_at=changes_at)
    now[0] += rests_s - 0.1
    assert not duty.is_rested()
    now[0] += 0.1
    assert duty.is_rested()
