"""Ray ends the workers that it needs no more with code 1: that is no crash, and only that."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob

PLACED = ev.WorkerPlaced(job_id="01000000", actor_id="a01000000", actor_class="Trainer")


def ended(*, placed: bool, inside: str = "", code: int = 1) -> RecordedJob:
    job = RecordedJob(2, launcher="ray")
    job.start(0, 1)
    for rank in (0, 1):
        job.plan(rank)
        if placed:
            job.say(rank, 1.0, PLACED)
        job.say(rank, 2.0, ev.IdentityConfirmed(global_rank=rank, world_size=2))
        if inside:
            job.begin(rank, 1, inside, 3.0)
        job.see(9.0, ev.ExitSeen(process=job.key(rank), exit_code=code))
    return job


def test_actors_whose_job_is_over_are_healthy() -> None:
    job = ended(placed=True)
    assert diagnose(job.state) == []
    assert {one.word for one in rank_statuses(job.state)} == {"exited"}
    assert "with which Ray ends its workers" in rank_statuses(job.state)[0].doing


@pytest.mark.parametrize(
    ("placed", "inside", "code"),
    [(False, "", 1), (True, "from_pretrained", 1), (True, "", 3)],
    ids=["no actor", "inside a load", "another code"],
)
def test_any_other_such_end_stays_a_crash(placed: bool, inside: str, code: int) -> None:
    job = ended(placed=placed, inside=inside, code=code)
    assert [f.code for f in diagnose(job.state) if f.severity == "crash"] == ["process.exited"]
