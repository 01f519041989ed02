"""A victim stamps its exception at once; the end that caused it is seen when somebody looks."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob, hung_job, only_root

PEER_LOST = "[torch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:6376"


def blamed(job: RecordedJob) -> tuple[str, tuple[int, ...]]:
    finding = diagnose(job.state)[0]
    assert {rank for f in diagnose(job.state) for rank in f.culprit_ranks} == set(
        finding.culprit_ranks
    )
    return finding.code, finding.culprit_ranks


def test_a_kill_that_was_seen_after_its_victims_exception() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    job.fail(0, 20.0, "RuntimeError", PEER_LOST)
    job.exit(1, 20.003, signal=9)
    job.exit(0, 20.4, code=1)
    job.exit(2, 20.6, signal=15)  # the launcher ends the rest
    assert blamed(job) == ("process.killed", (1,))


@pytest.mark.parametrize("orderly", [True, False], ids=["sys.exit", "os._exit"])
def test_an_exit_with_code_0_that_was_seen_after_its_victims_exception(orderly: bool) -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    if orderly:
        job.say(1, 19.9, ev.ProcessEnding())
    job.fail(0, 20.0, "RuntimeError", PEER_LOST)
    job.fail(2, 20.0, "RuntimeError", PEER_LOST)
    job.exit(1, 20.3, code=0)
    job.exit(0, 20.4, code=1)
    job.exit(2, 20.5, code=1)
    assert blamed(job) == ("process.exited", (1,))


def test_a_kill_long_after_an_exception_is_the_launchers_teardown() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    job.fail(1, 20.0, "ValueError", "bad batch")
    job.exit(1, 20.3, code=1)
    job.exit(0, 20.5, signal=9)
    job.exit(2, 20.5, signal=9)
    assert blamed(job) == ("process.exited", (1,))


def test_a_look_at_a_zombie_does_not_hide_what_it_was_in() -> None:
    job = hung_job()
    job.sample(2, 30.5, "S", syscall="read", blocked_on="/data/shard-7")
    only_root(job, "process.data_stall", 2)
    for rank in range(4):
        job.sample(rank, 31.0, "Z")
        job.exit(rank, 31.1, signal=9)
    only_root(job, "process.data_stall", 2)


def test_a_process_that_was_only_seen_dead_is_known_as_such() -> None:
    job = RecordedJob(1)
    job.initialize(0)
    job.sample(0, 5.0, "Z")
    sample = job.state.processes[job.key(0)].outside.sample
    assert sample is not None
    assert sample.state == "Z"
