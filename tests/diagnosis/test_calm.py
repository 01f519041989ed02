"""A run is calm only where neither time nor pulses can have changed the verdict."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from distwatch.diagnosis.facts.calm import CalmRun, calm_run
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.state import events as ev
from distwatch.state.loads import LoadProgress
from tests.diagnosis.recorded import SECOND, RecordedJob, hung_job


def training_job(world: int = 4) -> RecordedJob:
    """All ranks have entered #7 a moment ago, and some have completed it."""
    job = RecordedJob(world)
    job.initialize(*range(world))
    beat(job, 20.0)
    return job


def beat(job: RecordedJob, at: float, *ranks: int, **pulse: object) -> None:
    for rank in ranks or range(job.world):
        given = {"groups": {"0": (7, 7 - rank % 2, at - 0.3)}, **pulse}
        job.pulse(rank, at=at, **given)  # type: ignore[arg-type]
    job.tick(at)


def calm(job: RecordedJob) -> CalmRun | None:
    cases = cases_of(job.state)
    return calm_run(cases, diagnose(cases))


def test_a_job_that_trains_is_calm_for_as_long_as_it_beats() -> None:
    job = training_job()
    run = calm(job)
    assert run is not None
    for at in (20.5, 30.0, 500.0):
        beat(job, at)
        assert run.goes_on()
    job.tick(503.0)
    assert not run.goes_on(), "no rank has beaten for three seconds"


def in_flight(job: RecordedJob) -> None:
    beat(job, 21.0, 2, groups={"0": (7, 6, 19.9)})


def in_p2p(job: RecordedJob) -> None:
    beat(job, 21.0, 2, operations=(job.peer(2, "recv", 1, at=19.9, posted=1),))


def loads(job: RecordedJob) -> None:
    beat(job, 21.0, 2, loads=(LoadProgress(step=3),))


def one_without_a_heartbeat(job: RecordedJob) -> None:
    beat(job, 24.0, 0, 1, 3)


def sampled(state: str) -> Callable[[RecordedJob], None]:
    return lambda job: job.sample(2, 20.1, state)


def overlong_step(job: RecordedJob) -> None:
    at = ev.TrainingStep(step=9, began_ns=20 * SECOND, usual_s=1.0)
    pulse = msgspec.structs.replace(
        job.state.processes[job.key(2)].outside.pulse or ev.Pulse(),
        beat_ns=26 * SECOND,
        training=at,
    )
    beat(job, 26.0, 0, 1, 3)
    job.see(26.0, ev.PulseRead(process=job.key(2), pulse=pulse), job.host(2))


@pytest.mark.parametrize(
    "happens",
    [in_flight, in_p2p, loads, one_without_a_heartbeat, sampled("T"), sampled("D"), sampled("Z"), overlong_step],
)  # fmt: skip
def test_what_pulses_and_samples_show_ends_the_calm(happens: Callable[[RecordedJob], None]) -> None:
    job = training_job()
    run = calm(job)
    assert run is not None
    assert run.goes_on()
    happens(job)
    assert not run.goes_on()


def a_rank_without_a_process(job: RecordedJob) -> None:
    del job.state.processes[job.key(3)]


def an_open_step(job: RecordedJob) -> None:
    job.begin(1, 9, "new_group #3", 20.0)


def an_ended_rank(job: RecordedJob) -> None:
    job.exit(1, 20.0, code=0)


def a_rank_at_its_end(job: RecordedJob) -> None:
    job.say(1, 20.0, ev.ProcessEnding())


@pytest.mark.parametrize(
    "happened", [a_rank_without_a_process, an_open_step, an_ended_rank, a_rank_at_its_end]
)
def test_a_run_in_which_time_may_tell_something_is_not_calm(
    happened: Callable[[RecordedJob], None],
) -> None:
    job = training_job()
    happened(job)
    assert calm(job) is None


def test_a_run_with_a_finding_is_not_calm() -> None:
    assert calm(hung_job()) is None


def test_a_hang_ends_the_calm_before_any_deadline() -> None:
    job = training_job()
    run = calm(job)
    assert run is not None
    for at in (20.5, 21.0, 21.5, 22.0):
        for rank in (0, 1, 3):
            job.pulse(rank, at=at, groups={"0": (8, 7, 20.4)})
        job.pulse(2, at=at, groups={"0": (7, 7, 20.2)})
        job.tick(at)
    assert not run.goes_on()
