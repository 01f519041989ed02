"""Where in its training a rank is, and steps that take many times their usual length."""

from __future__ import annotations

import msgspec
import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.diagnosis.verdict.headline import headline_of
from distwatch.report.document import build_report
from distwatch.state import events as ev
from tests.diagnosis.recorded import SECOND, RecordedJob, frame, hung_job

TORCH = "/venv/lib/python3.11/site-packages/torch"


def at_step(job: RecordedJob, rank: int, step: int, began: float, usual_s: float = 0.0) -> None:
    """The rank's newest pulse also tells its step."""
    process = job.state.processes[job.key(rank)]
    at = ev.TrainingStep(step=step, began_ns=int(began * SECOND), usual_s=usual_s)
    pulse = msgspec.structs.replace(process.outside.pulse or ev.Pulse(), training=at)
    now = job.state.hosts["node1"].now_ns / SECOND
    operations = process.outside.operations
    read = ev.PulseRead(process=job.key(rank), pulse=pulse, operations=operations)
    job.see(now, read)


def training(steps_ago_s: float, usual_s: float, *where: ev.Frame) -> RecordedJob:
    """Two ranks that compute, at step 40 for so long."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        job.pulse(rank, at=100, groups={"0": (5, 5, 100 - steps_ago_s)})
        job.stack(rank, 100, where or (frame("main", "/job/train.py", 3),))
        job.sample(rank, 100, "R")
    job.tick(100)
    for rank in (0, 1):
        at_step(job, rank, 40, 100 - steps_ago_s, usual_s)
    return job


def headline(job: RecordedJob) -> tuple[str, str]:
    cases = cases_of(job.state)
    said = headline_of(cases, diagnose(cases), rank_statuses(job.state, cases[0].job))
    return said.word, said.summary


def test_a_verdict_names_the_step_and_the_phase() -> None:
    job = hung_job()
    inside = (
        frame("train", "/job/train.py", 9),
        frame("backward", f"{TORCH}/_tensor.py", 500),
        frame("backward", f"{TORCH}/autograd/__init__.py", 200),
    )
    job.stack(2, 30.0, inside)
    for rank in range(4):
        at_step(job, rank, 1204, 9.0)
    findings = diagnose(job.state)
    assert "rank 2 at step 1,204, in backward" in findings[0].summary
    report = build_report(job.state, findings, "recorded")
    assert [(r.step, r.phase) for r in report.ranks][2] == (1204, "backward")
    assert "step 1,204, in backward" in report.ranks[2].doing


def test_a_rank_that_told_no_step_has_none() -> None:
    job = hung_job()
    assert {status.step for status in rank_statuses(job.state)} == {None}
    assert "at step" not in diagnose(job.state)[0].summary


def test_a_step_of_ten_times_its_usual_length_is_suspected_and_no_finding() -> None:
    word, summary = headline(training(53, 2.0))
    assert word == "suspected"
    assert summary == "ranks 0-1 have been at step 40 for 53 s; a step usually takes 2.0 s"
    assert not diagnose(training(53, 2.0).state)


@pytest.mark.parametrize(
    ("lasted", "usual", "where"),
    [
        (15, 2.0, ()),
        (4, 0.1, ()),
        (53, 0.0, ()),
        (53, 2.0, (frame("evaluate", "/job/train.py", 8),)),
        (53, 2.0, (frame("save", f"{TORCH}/serialization.py", 8),)),
    ],
    ids=["usual", "short", "not known yet", "evaluates", "saves"],
)
def test_other_steps_are_not_suspected(
    lasted: float, usual: float, where: tuple[ev.Frame, ...]
) -> None:
    assert headline(training(lasted, usual, *where))[0] != "suspected"


@pytest.mark.parametrize(
    ("frames", "phase"),
    [
        ((frame("forward", "/job/model.py"), frame("_call_impl", f"{TORCH}/nn/modules/module.py")), "forward"),
        ((frame("step", f"{TORCH}/optim/adamw.py"),), "optimizer"),
        ((frame("evaluate", "/job/t.py"), frame("forward", f"{TORCH}/nn/modules/linear.py")), "evaluation"),
        ((frame("save_checkpoint", "/job/t.py"), frame("x", f"{TORCH}/nn/modules/module.py")), "save"),
        ((frame("main", "/job/t.py"),), ""),
    ],
)  # fmt: skip
def test_the_phase_is_that_of_what_contains_the_others(
    frames: tuple[ev.Frame, ...], phase: str
) -> None:
    job = training(1, 2.0, *frames)
    assert {status.phase for status in rank_statuses(job.state)} == {phase}
