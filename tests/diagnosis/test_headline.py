"""The verdict in one word: never `healthy` where something does not move."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.diagnosis.verdict.headline import Headline, headline_of
from tests.diagnosis import recorded as records
from tests.diagnosis.recorded import RecordedJob, hung_job


def headline(job: RecordedJob) -> Headline:
    cases = cases_of(job.state)
    return headline_of(cases, diagnose(cases), rank_statuses(job.state, cases[0].job))


def moving_job() -> RecordedJob:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in range(2):
        job.pulse(rank, at=20.0, groups={"0": (5, 5, 19.0)})
    job.tick(20.0)
    return job


def test_a_job_that_moves_is_healthy() -> None:
    assert headline(moving_job()).word == "healthy"


def test_a_job_in_a_collective_that_does_not_complete_is_not() -> None:
    job = moving_job()
    for rank in range(2):
        job.pulse(rank, at=28.0, groups={"0": (6, 5, 20.0)})
    job.tick(28.0)
    assert (headline(job).word, headline(job).deadline_in_s) == ("suspected", 2.0)


def test_a_suspicion_says_when_it_is_decided_and_how_to_hear_earlier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(records.DEADLINES, "collective", 300.0)
    told = headline(hung_job(waited=200.0))
    assert (told.word, told.code, told.culprit_ranks) == (
        "suspected",
        "collective.rank_missing",
        (2,),
    )
    assert told.deadline_in_s == 100.0
    assert told.note == "deadline in 100 s; `--deadlines collective=60` to hear earlier"


def test_what_was_found_needs_no_deadline() -> None:
    told = headline(hung_job())
    assert (told.word, told.code, told.note) == ("hang", "collective.rank_missing", "")


def test_a_run_of_which_all_that_was_seen_has_ended_is_over() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1)
    for rank in range(2):
        job.exit(rank, 9.0, code=0)
    assert headline(job).word == "ended"
    assert headline(job).summary == ("2/3 ranks have ended; 1 was never seen; nothing wrong found")
