"""The steps that a process counts or is told."""

from __future__ import annotations

import pytest

from distwatch.agent import training_steps
from distwatch.agent.training_steps import TrainingSteps


class Optimizer:
    pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seconds, as the steps see them."""
    now = [0]
    monkeypatch.setattr(training_steps.time, "monotonic_ns", lambda: now[0] * 1_000_000_000)
    return now


def test_the_first_optimizer_counts_and_another_one_beside_it_does_not() -> None:
    steps, first, second = TrainingSteps(), Optimizer(), Optimizer()
    assert steps.seen() is None
    for _ in range(3):
        steps.count(first)
        steps.count(second)
    seen = steps.seen()
    assert seen is not None
    assert seen.step == 3


def test_another_optimizer_goes_on_once_the_first_is_gone() -> None:
    steps, optimizer = TrainingSteps(), Optimizer()
    steps.count(optimizer)
    del optimizer
    steps.count(Optimizer())
    seen = steps.seen()
    assert seen is not None
    assert seen.step == 2


def test_what_is_told_wins_and_the_usual_length_is_the_median(clock: list[int]) -> None:
    steps, optimizer = TrainingSteps(), Optimizer()
    steps.count(optimizer)
    for step, length in ((1200, 90), (1201, 2), (1202, 3), (1203, 2)):
        steps.tell(step, epoch=1.5)
        steps.tell(step, epoch=1.5)
        steps.count(optimizer)
        clock[0] += length
    steps.tell(1204)
    seen = steps.seen()
    assert seen is not None
    assert (seen.step, seen.usual_s, seen.began_ns) == (1204, 2.5, 97 * 1_000_000_000)


def test_two_steps_do_not_tell_what_is_usual(clock: list[int]) -> None:
    steps = TrainingSteps()
    for step in range(3):
        steps.tell(step)
        clock[0] += 1
    seen = steps.seen()
    assert seen is not None
    assert seen.usual_s == 0.0
