"""Judging rests in proportion to what it cost."""

from __future__ import annotations

import pytest

from distwatch.observer import duty_cycle
from distwatch.observer.duty_cycle import CALM, PRESSED, DutyCycle, rested_at


def test_quick_work_is_due_at_every_tick():
    assert rested_at(10.0, 10.005) < 10.5


def test_long_work_rests_for_a_multiple_of_its_time():
    assert rested_at(10.0, 12.0) == 12.0 + 2 * CALM


def test_while_a_verdict_is_near_it_rests_less():
    assert rested_at(10.0, 12.0, PRESSED) == 14.0


def test_a_clock_that_stood_still_lets_it_go_on():
    assert rested_at(10.0, 9.0) == 9.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [12.0]
    monkeypatch.setattr(duty_cycle.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("now", "is_rested"), [(14.9, True), (15.1, False), (17.0, False), (20.9, False), (21.1, True)]
)
def test_a_turn_that_would_last_beyond_a_deadline_waits_for_its_news(
    now: float, is_rested: bool, clock: list[float]
) -> None:
    """It takes 2 s, and the deadline passes at 17: what it found before that would be judged again."""
    duty = DutyCycle()
    duty.rest(10.0, pressed=True, changes_at=17.0)
    assert not duty.is_rested()
    duty.end_rest()
    clock[0] = now
    assert duty.is_rested() == is_rested
    assert duty.is_rested(lambda: True)


def test_news_of_a_deadline_ends_a_long_rest_but_not_the_shortest(clock: list[float]) -> None:
    duty = DutyCycle()
    duty.rest(10.0, pressed=False, changes_at=13.0)
    clock[0] = 13.9
    assert not duty.is_rested(lambda: True)
    clock[0] = 14.0
    assert duty.is_rested(lambda: True)
