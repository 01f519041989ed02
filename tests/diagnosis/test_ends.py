"""Verdicts on jobs that end: whose end is the cause, and whose only follows."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.diagnosis.recorded import PEER_LOST, RecordedJob, blamed, hung_job, only_root, root


def test_an_uncaught_exception_is_the_root_and_its_peers_are_victims() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    job.fail(1, 20.0, "ValueError", "bad batch")
    for rank in (0, 2):
        job.fail(rank, 20.1, "torch.distributed.DistBackendError", PEER_LOST)
        job.exit(rank, 20.4, code=1)
    job.exit(1, 20.6, code=1)
    findings = diagnose(job.state)
    assert root(findings).code == "process.exited"
    assert root(findings).culprit_ranks == (1,)
    assert root(findings).waiting_ranks == (0, 2)
    assert "ValueError at train.py:7 in step: bad batch" in root(findings).summary
    assert blamed(findings) == {1}


def test_the_same_exception_on_all_ranks_is_one_finding() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        job.fail(rank, 20.0 + rank, "ValueError", "same bug")
        job.exit(rank, 22.0, code=1)
    findings = diagnose(job.state)
    assert [f.culprit_ranks for f in findings] == [(0, 1)]


def test_a_killed_rank_and_its_victims() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    job.exit(1, 20.0, signal=9)
    job.fail(0, 20.2, "RuntimeError", PEER_LOST)
    job.exit(0, 20.5, code=1)
    job.exit(2, 21.0, signal=15)  # torchrun ends the rest
    findings = diagnose(job.state)
    assert root(findings).code == "process.killed"
    assert root(findings).culprit_ranks == (1,)
    assert blamed(findings) == {1}
    assert "SIGKILL" in root(findings).summary


def test_oom_only_where_the_kernel_says_so() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.exit(1, 20.0, signal=9, oom_killed="memory.events: oom_kill 0 → 1")
    assert root(diagnose(job.state)).code == "process.oom_killed"


def test_ranks_that_end_well_at_different_times_are_no_finding() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    for rank in range(3):
        job.pulse(rank, at=19, groups={"0": (5, 5, 18.0)})
        job.exit(rank, 20.0 + 5 * rank, code=0)
        job.tick(21.0 + 5 * rank)
        assert diagnose(job.state) == []


def test_a_rank_that_ends_well_but_too_early_is_the_culprit() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.pulse(0, at=21, groups={"0": (5, 4, 20.0)})
    job.pulse(1, at=19, groups={"0": (4, 4, 18.0)})
    job.exit(1, 19.5, code=0)
    job.tick(21)
    findings = diagnose(job.state)
    assert root(findings).code == "process.exited"
    assert blamed(findings) == {1}


def test_a_job_ended_by_sigterm_is_no_crash() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.exit(0, 20.0, signal=15)
    job.exit(1, 20.1, signal=15)
    assert blamed(diagnose(job.state)) == set()


def test_a_hang_that_was_cleared_away_with_sigkill_stays_the_verdict() -> None:
    job = hung_job()
    for rank in range(4):
        job.exit(rank, 30.1 + rank / 100, signal=9)
    findings = diagnose(job.state)
    assert root(findings).code == "collective.rank_missing"
    assert blamed(findings[:1]) == {2}
    assert all(f.role == "symptom" for f in findings[1:])


@pytest.mark.parametrize("signal", [9, 15, None], ids=["killed", "asked-to-end", "unseen"])
@pytest.mark.parametrize("first", [(0, 1, 3), (0,)], ids=["all-waiters", "one"])
def test_a_hang_stays_the_verdict_while_its_waiters_are_killed(
    first: tuple[int, ...], signal: int | None
) -> None:
    """A rank in the kernel does not end when the job is killed."""
    job = hung_job()
    job.sample(2, 30.0, "D", blocked_on="/mnt/data/shard")
    hang = root(diagnose(job.state))
    for rank in first:
        job.exit(rank, 30.1, signal=signal)
    for now in (30.5, 90.0):
        job.tick(now)
        found, *others = diagnose(job.state)
        assert (found.code, found.culprit_ranks) == (hang.code, (2,))
        assert found.waiting_ranks == (0, 1, 3)
        assert not found.summary.startswith("just before"), "it still stands"
        assert blamed(others) <= {2}
        assert all(f.role == "symptom" for f in others)


def test_a_hang_whose_last_rank_ends_long_after_its_waiters_is_told_once() -> None:
    job = hung_job()
    for rank in (0, 1, 3):
        job.exit(rank, 30.1, signal=9)
    job.tick(90.0)
    job.exit(2, 91.0, signal=9)
    found, *others = diagnose(job.state)
    assert found.summary.count("just before the job was ended") == 1
    assert [(f.code, f.waiting_ranks) for f in others] == [("process.killed", (0, 1, 2, 3))]


def test_initializations_that_were_killed_had_waited_for_the_rank_that_lives() -> None:
    job = RecordedJob(3)
    job.enter(0, 1)
    job.sight(2, 2.0)
    job.sample(2, 30.0, "D", blocked_on="/mnt/data/shard")
    job.tick(30.0)
    hang = root(diagnose(job.state))
    assert hang.culprit_ranks == (2,)
    for rank in (0, 1):
        job.exit(rank, 30.1, signal=9)
    job.tick(31.0)
    assert root(diagnose(job.state)).code == hang.code
    assert blamed(diagnose(job.state)) == {2}


def test_a_kill_is_the_verdict_where_no_rank_had_waited_for_too_long() -> None:
    job = hung_job(waited=6.0)
    job.exit(0, 16.1, signal=9)
    job.tick(60.0)
    assert root(diagnose(job.state)).code == "process.killed"
    assert blamed(diagnose(job.state)[:1]) == {0}


def test_ctrl_c_is_no_crash() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        job.fail(rank, 20.0, "KeyboardInterrupt", "")
        job.exit(rank, 20.1, code=1)
    findings = diagnose(job.state)
    assert blamed(findings) == set()
    assert [finding.severity for finding in findings] == ["info"]


def test_ctrl_c_on_a_hanging_job_leaves_its_verdict() -> None:
    job = hung_job()
    for rank in range(4):
        job.fail(rank, 30.1, "KeyboardInterrupt", "")
        job.exit(rank, 30.2, code=1)
    assert root(diagnose(job.state)).code == "collective.rank_missing"


def test_an_abort_by_nccls_watchdog_is_no_crash_of_that_rank() -> None:
    job = hung_job(world=3, culprit=2)
    for rank in (0, 1):
        job.exit(rank, 30.1, signal=6)
    job.exit(2, 30.5, signal=15)
    findings = diagnose(job.state)
    assert root(findings).code == "collective.rank_missing"
    assert blamed(findings) == {2}


def test_a_rank_without_distwatch_that_is_killed_is_no_less_dead() -> None:
    job = RecordedJob(2)
    job.initialize(0)
    job.sight(1, 2.0)
    job.exit(1, 20.0, signal=11)
    job.fail(0, 20.1, "RuntimeError", PEER_LOST)
    job.exit(0, 20.2, code=1)
    findings = diagnose(job.state)
    assert root(findings).code == "process.killed"
    assert blamed(findings) == {1}


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 1, 2)])
def test_of_ends_that_one_look_finds_the_killed_rank_is_the_first(order: tuple[int, ...]) -> None:
    """As torch.multiprocessing.spawn ends the others, whatever the order in which they are looked at."""
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    for place, rank in enumerate(order):
        job.exit(rank, 20.0 + place / 1000, signal=9 if rank == 2 else 15)
    job.tick(22.0)
    only_root(job, "process.killed", 2)
    assert "at once" not in root(diagnose(job.state)).summary


def test_a_rank_that_is_killed_because_it_did_not_end_is_no_cause() -> None:
    job = hung_job(3, culprit=1)
    for rank, at in ((0, 30.0), (1, 30.6), (2, 30.0)):
        job.exit(rank, at, signal=9 if rank == 1 else 15)
    job.tick(32.0)
    assert root(diagnose(job.state)).code == "collective.rank_missing"
