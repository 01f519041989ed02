"""monitored_barrier, which has no number: its waits are edges like all others."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.facts.suspicion import suspicion_of
from distwatch.state.finding import Finding
from tests.diagnosis.recorded import READING, WAITING, RecordedJob, frame, judged, only_root

INSIDE = (
    frame("main", "/job/train.py", 9),
    frame("monitored_barrier", "/lib/torch/distributed/distributed_c10d.py", 5000),
)
TIMED_OUT = (
    "[Rank 0]: Rank 2 failed to pass monitoredBarrier in 6000 ms\n Original exception: \n"
    "Timed out waiting 6000ms for recv operation to complete"
)
NO_ACK = (
    "Rank 1 successfully reached monitoredBarrier, but received errors while waiting for send/recv from "
    "rank 0. Please check rank 0 logs for faulty rank."
)


def job_in_barrier(world: int, *inside: int, since: float = 5.0) -> RecordedJob:
    job = RecordedJob(world)
    job.initialize(*range(world))
    for rank in range(world):
        enter(job, rank, since=since) if rank in inside else stay_at(job, rank)
    return job


def enter(job: RecordedJob, rank: int, *, since: float, left: float = 0.0) -> None:
    barrier = job.operation(rank, "monitored_barrier", -1, at=since, number=1, left=left)
    job.pulse(rank, at=30, groups={"0": (1, 1, 4.0)}, operations=(barrier,))
    job.sample(rank, 30, "S")
    job.stack(rank, 30, INSIDE)


def stay_at(job: RecordedJob, rank: int) -> None:
    job.pulse(rank, at=30, groups={"0": (1, 1, 4.0)})
    job.sample(rank, 30, "S")
    job.stack(rank, 30, READING)


def blames(findings: list[Finding]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(f.role, f.code, f.culprit_ranks) for f in findings]


def test_who_is_in_it_waits_for_everyone_who_is_not() -> None:
    job = job_in_barrier(4, 0, 1)
    job.tick(31)
    case = Case(job.state)
    assert {(e.waiter, e.awaited) for rank in (0, 1) for e in case.graph.waits(rank)} == {
        (0, 2), (0, 3), (1, 2), (1, 3),
    }  # fmt: skip
    assert case.graph.waits(0)[0].what == "monitored_barrier of default_pg"
    assert case.graph.is_overdue(2)
    assert case.waiting_for((2,)) == (0, 1)
    finding = only_root(job, "collective.rank_missing", 2, 3)
    assert finding.waiting_ranks == (0, 1)


@pytest.mark.parametrize("inside", [(0, 1, 2), (1, 2, 3)])
def test_what_holds_the_missing_rank_names_all_who_wait_in_it(inside: tuple[int, ...]) -> None:
    (away,) = set(range(4)) - set(inside)
    job = job_in_barrier(4, *inside)
    job.sample(away, 30.5, "D", blocked_on="/mnt/data/x")
    job.tick(31)
    finding = next(f for f in judged(job) if f.code == "process.io_blocked")
    assert (finding.culprit_ranks, finding.waiting_ranks) == ((away,), inside)
    assert "in monitored_barrier of default_pg" in finding.summary


def test_a_member_that_is_stopped_inside_holds_up_the_others() -> None:
    job = job_in_barrier(3, 0, 1, 2)
    job.sample(0, 30.5, "T")
    job.tick(31)
    finding = only_root(job, "process.stopped", 0)
    assert finding.waiting_ranks == (1, 2)


def test_a_chain_goes_on_behind_the_barrier() -> None:
    """Rank 1 waits in the barrier for rank 2, and that one in a recv for rank 3."""
    job = job_in_barrier(4, 0, 1)
    job.pulse(2, at=30, operations=(job.peer(2, "recv", 3, at=6, posted=1),))
    job.stack(2, 30.5, (frame("main", "/job/train.py", 9),))
    job.tick(31)
    assert Case(job.state).graph.behind([3]) == {0, 1, 2}


def test_nobody_waits_where_all_are_in_it_or_it_has_just_begun() -> None:
    job = job_in_barrier(2, 0, 1)
    job.tick(31)
    assert not Case(job.state).graph.bundles
    job = job_in_barrier(2, 0, since=30.5)
    job.tick(31)
    assert not Case(job.state).graph.bundles


def test_the_wait_is_shown_and_is_worth_a_look() -> None:
    job = job_in_barrier(2, 0, since=24.0)
    job.tick(30)
    words = [(status.word, status.doing) for status in rank_statuses(job.state)]
    assert words[0] == ("waiting", "monitored_barrier in default_pg")
    case = Case(job.state)
    assert suspicion_of(case.job, case.groups) == "rank 0 waits in monitored_barrier of group 0"
    assert judged(job) == []


def test_a_barrier_that_failed_is_no_wait_in_the_collective_before_it() -> None:
    """torch's message also says that something timed out: not #1, which all have completed."""
    job = job_in_barrier(3)
    enter(job, 0, since=5.0, left=11.0)
    enter(job, 1, since=5.0, left=11.5)
    job.fail(0, 11.0, "RuntimeError", TIMED_OUT)
    job.fail(1, 11.5, "RuntimeError", NO_ACK)
    job.tick(31)
    case = Case(job.state)
    assert {(wait.global_rank, wait.call) for wait in case.job.waits} == {
        (0, "monitored_barrier"), (1, "monitored_barrier"),
    }  # fmt: skip
    assert [edge.awaited for edge in case.graph.waits(0)] == [2]
    assert only_root(job, "collective.rank_missing", 2).waiting_ranks == (0, 1)


def test_two_calls_of_one_group_are_one_mismatch_of_the_fewer_ranks() -> None:
    job = job_in_barrier(3, 0, 1)
    called = job.operation(2, "all_reduce", 2, at=6.0, number=2)
    job.pulse(2, at=30, groups={"0": (2, 1, 6.0)}, operations=(called,))
    job.stack(2, 30.5, WAITING)
    job.tick(31)
    finding = only_root(job, "collective.op_mismatch", 2)
    assert finding.waiting_ranks == (0, 1)
    assert finding.summary.startswith(
        "ranks 0-1 are in a monitored_barrier of default_pg, and rank 2 is in all_reduce #2 of default_pg"
    )
    assert all(f.role == "symptom" for f in judged(job)[1:])


def test_two_groups_in_different_orders_are_a_circle() -> None:
    job = job_in_barrier(2, 0)
    for rank in (0, 1):
        job.hold(rank, "1", (0, 1), desc="tp", at=2.0)
    called = job.operation(1, "all_reduce", 1, at=6.0, number=1, pg_name="1")
    job.pulse(
        1, at=30, groups={"0": (1, 1, 4.0), "1": (1, 0, 6.0)}, operations=(called,)
    )  # fmt: skip
    job.stack(1, 30.5, WAITING)
    job.tick(31)
    findings = judged(job)
    assert blames(findings)[0] == ("root", "collective.cycle", (0, 1))
    assert "rank 0 is in monitored_barrier of default_pg" in findings[0].summary
