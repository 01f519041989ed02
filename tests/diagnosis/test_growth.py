"""A root judges ten thousand ranks: what that takes grows as they do, and not with their square."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from tests.diagnosis.recorded import RecordedJob, hung_job
from tests.diagnosis.test_calm import training_job

FEW, MANY = 50, 200


def calls_of(job: RecordedJob) -> int:
    """How many functions are called to judge it."""
    called = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal called
        called += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        diagnose(cases_of(job.state))
    finally:
        sys.setprofile(before)
    return called


@pytest.mark.parametrize("job", [training_job, hung_job])
def test_judging_grows_with_the_ranks_alone(job: Callable[[int], RecordedJob]) -> None:
    calls_of(job(FEW))  # fills the caches
    few, many = calls_of(job(FEW)), calls_of(job(MANY))
    assert many < 1.5 * MANY / FEW * few
