"""Ranks that are claimed twice, or that no world has."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob, judged, only_root


def duplicated(world: int, *extra: int, host: str = "node1") -> RecordedJob:
    """Ranks 0 and up, and one process more for each of `extra`, which says that it is that rank."""
    job = RecordedJob(world)
    present = world - len(extra)
    for number, rank in enumerate(extra):
        job.stand(10 + number, global_rank=rank, host=host)
    job.start(*range(present))
    job.enter(*range(present))
    for number in range(len(extra)):
        job.enter(10 + number, at=1.1)
    return job


def test_two_processes_of_one_rank_are_known_at_once() -> None:
    job = duplicated(3, 1)
    job.tick(1.5)
    verdict = only_root(job, "rendezvous.rank_duplicated", 1)
    assert verdict.waiting_ranks == (0,)
    assert "pid 1001 on node1" in verdict.summary
    assert "pid 1010 on node1" in verdict.summary
    assert "python train.py" in " ".join(e.text for e in verdict.evidence)


def test_the_rank_that_the_second_one_should_be_is_no_second_trouble() -> None:
    job = duplicated(3, 1)
    job.tick(30.0)
    only_root(job, "rendezvous.rank_duplicated", 1)
    for rank in (0, 1, 10):
        job.refuse(rank, 31.0, "DistStoreError: wait timeout after 30000ms")
    only_root(job, "rendezvous.rank_duplicated", 1)


def test_a_rank_that_is_missing_beside_a_duplicate_is_told_too() -> None:
    job = RecordedJob(4)
    job.stand(10, global_rank=1)
    job.start(0, 1)
    job.enter(0, 1, 10)
    job.tick(30.0)
    roots = [f for f in judged(job) if f.role == "root"]
    assert [(f.code, f.culprit_ranks) for f in roots] == [
        ("rendezvous.rank_duplicated", (1,)),
        ("rendezvous.rank_never_started", (2, 3)),
    ]


def test_two_hosts_with_one_node_rank() -> None:
    job = RecordedJob(4, single_node=False)
    for process, rank in ((10, 0), (11, 1)):
        job.stand(process, global_rank=rank, host="node2")
    job.start(0, 1)
    job.enter(0, 1, 10, 11)
    job.tick(3.0)
    verdict = only_root(job, "rendezvous.rank_duplicated", 0, 1)
    assert "on node2" in verdict.summary


def test_the_loser_of_the_port_is_the_duplicate_of_rank_0() -> None:
    job = RecordedJob(2)
    job.stand(10, global_rank=0)
    job.start(0, 10)
    job.enter(0, 10)
    job.probe("store", 1.5, owner_pid=1000, owner_process=job.key(0))
    job.refuse(
        10, 1.2, "DistNetworkError: code: -98, name: EADDRINUSE, message: address already in use"
    )
    job.tick(3.0)
    only_root(job, "rendezvous.rank_duplicated", 0)


def test_a_rank_that_was_started_again_by_hand_is_none() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.enter(1)
    job.exit(1, 3.0, signal=9)
    job.stand(10, global_rank=1)
    job.start(10, at=4.0)
    job.enter(10, at=5.0)
    job.form(0, 10, at=5.5)
    job.tick(60.0)
    assert judged(job) == []


def test_a_process_of_another_world_is_none() -> None:
    job = RecordedJob(2)
    job.stand(10, global_rank=1, master_port=29501)
    job.enter(0, 1, 10)
    job.form(0, 1)
    job.tick(3.0)
    assert judged(job) == []


def test_a_child_with_its_parents_variables_is_none() -> None:
    """A launcher script with RANK in its environment spawns the process that uses it."""
    job = RecordedJob(2)
    job.stand(10, global_rank=0)
    job.start(10)
    job.start(0, 1, at=0.5)
    job.enter(0, 1)
    job.form(0, 1)
    job.tick(60.0)
    assert judged(job) == []


@pytest.mark.parametrize("with_rank_0", [False, True])
def test_rank_1_of_a_world_of_1(with_rank_0: bool) -> None:
    job = RecordedJob(1)
    job.stand(5, global_rank=1, world_size=1)
    if with_rank_0:
        job.enter(0)
        job.form(0)
    job.enter(5, inner="rendezvous")
    job.tick(1.5)
    verdict = only_root(job, "rendezvous.rank_out_of_range", 1)
    assert "WORLD_SIZE=1" in verdict.summary
    job.tick(60.0)
    only_root(job, "rendezvous.rank_out_of_range", 1)


def test_a_rank_beyond_its_world_keeps_the_others_waiting() -> None:
    job = RecordedJob(2)
    job.stand(5, global_rank=5)
    job.enter(0, 5)
    job.tick(1.5)
    assert only_root(job, "rendezvous.rank_out_of_range", 5).waiting_ranks == (0,)
    gloo = "RuntimeError: [enforce fail at gloo/context.cc:27] rank < size. 5 vs 2"
    job.refuse(5, 2.0, gloo)
    job.tick(60.0)
    verdict = only_root(job, "rendezvous.rank_out_of_range", 5)
    assert verdict.severity == "crash"


def test_a_plan_alone_is_no_claim() -> None:
    job = duplicated(2, 1)
    job.say(10, 1.2, ev.StepEnded(step=2))
    job.say(10, 1.2, ev.StepEnded(step=1))
    job.say(10, 1.3, ev.GroupDestroyed(pg_name=""))
    job.tick(2.0)
    assert judged(job) == [], "it has left that world"


def test_a_job_that_is_cleared_away_rank_by_rank_stays_what_it_was() -> None:
    job = duplicated(3, 1)
    job.tick(30.0)
    for rank, at in ((0, 31.0), (10, 40.0), (1, 50.0)):
        job.exit(rank, at, signal=9)
        only_root(job, "rendezvous.rank_duplicated", 1)


def test_a_crash_beside_it_is_a_trouble_of_its_own() -> None:
    job = duplicated(3, 1)
    job.exit(0, 3.0, signal=11)
    roots = {finding.code for finding in judged(job) if finding.role == "root"}
    assert roots == {"rendezvous.rank_duplicated", "process.killed"}
