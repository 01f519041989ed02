"""Judging rests in proportion to what it cost."""

from __future__ import annotations

from distwatch.observer.duty_cycle import CALM, PRESSED, rested_at


def test_quick_work_is_due_at_every_tick():
    assert rested_at(10.0, 10.005) < 10.5


def test_long_work_rests_for_a_multiple_of_its_time():
    assert rested_at(10.0, 12.0) == 12.0 + 2 * CALM


def test_while_a_verdict_is_near_it_rests_less():
    assert rested_at(10.0, 12.0, PRESSED) == 14.0


def test_a_clock_that_stood_still_lets_it_go_on():
    assert rested_at(10.0, 9.0) == 9.0
