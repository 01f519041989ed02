"""Judging rests in proportion to what it cost."""

from __future__ import annotations

from distwatch.observer.duty_cycle import CALM, PRESSED, Pace


def test_what_was_never_done_is_due():
    assert Pace().is_due(0.0)


def test_quick_work_is_due_at_every_tick():
    pace = Pace()
    pace.note(10.0, 10.005)
    assert pace.is_due(10.5)


def test_long_work_rests_for_a_multiple_of_its_time():
    pace = Pace()
    pace.note(10.0, 12.0)
    assert not pace.is_due(12.0 + 2 * CALM - 0.1)
    assert pace.is_due(12.0 + 2 * CALM)


def test_while_a_verdict_is_near_it_rests_less():
    pace = Pace()
    pace.note(10.0, 12.0, PRESSED)
    assert not pace.is_due(13.9)
    assert pace.is_due(14.0)


def test_a_clock_that_stood_still_lets_it_go_on():
    pace = Pace()
    pace.note(10.0, 9.0)
    assert pace.is_due(9.0)
