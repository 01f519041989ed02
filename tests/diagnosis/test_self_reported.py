"""What ranks found themselves, beside what is seen of all of them."""

from __future__ import annotations

from distwatch.state import events as ev
from tests.diagnosis.recorded import READING, RecordedJob, judged, only_root


def test_it_stands_where_nothing_else_says_it() -> None:
    job = RecordedJob(3)
    job.enter(0, 1)
    for rank in (0, 1):
        job.raise_finding(
            rank, 3.0, "arrival", code="rendezvous.rank_duplicated", culprit_ranks=(1,), waiting_ranks=(rank,)
        )  # fmt: skip
    job.tick(4.0)
    verdict = only_root(job, "rendezvous.rank_duplicated", 1)
    assert verdict.waiting_ranks == (0,), "of all who raised it, without the culprit"


def test_the_rank_that_is_missing_for_a_duplicate_elsewhere_is_no_second_root() -> None:
    job = RecordedJob(3, single_node=False)
    job.enter(0, 1)
    job.raise_finding(0, 3.0, "arrival", code="rendezvous.rank_duplicated", culprit_ranks=(1,))
    job.tick(60.0)
    only_root(job, "rendezvous.rank_duplicated", 1)


def test_a_finding_of_our_own_says_it_once() -> None:
    job = RecordedJob(2)
    for rank, size in ((0, 2), (1, 3)):
        job.stand(rank, world_size=size)
    job.enter(0, 1)
    for rank in (0, 1):
        job.raise_finding(
            rank, 2.0, "agreement", code="rendezvous.world_size_disagrees", culprit_ranks=(1,)
        )
        job.refuse(rank, 2.1, "InitFailed: WORLD_SIZE differs")
    verdict = only_root(job, "rendezvous.world_size_disagrees", 1)
    assert verdict.summary != "found inside"
    assert len(judged(job)) == 1


def test_a_rank_that_looked_in_the_wrong_place_blames_a_victim_and_is_not_believed() -> None:
    job = RecordedJob(2)
    job.stand(1, master_port=29501)
    job.enter(0)
    job.enter(1, inner="endpoint")
    job.raise_finding(1, 9.0, "endpoint", code="rendezvous.rank_missing", culprit_ranks=(0,))
    job.refuse(1, 9.0, "InitTimeout: endpoint did not finish within 8 s")
    job.tick(9.5)
    only_root(job, "rendezvous.endpoint_disagrees", 1)


def test_what_failed_and_was_made_good_is_over() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.raise_finding(0, 9.0, "arrival", code="rendezvous.rank_missing", culprit_ranks=(1,))
    job.refuse(0, 9.0, "InitTimeout: arrival did not finish within 8 s", uncaught=False)
    job.start(1, at=10.0)
    job.enter(0, 1, at=11.0, step=11, number=2)
    job.form(0, 1, at=12.0, step=11)
    job.tick(20.0)
    assert judged(job) == []


def test_a_framework_that_failed_after_the_world_had_formed_is_not_over() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.form(0, 1)
    job.raise_finding(0, 9.0, "layouts", code="group.layout_disagrees", culprit_ranks=(1,))
    job.tick(10.0)
    only_root(job, "group.layout_disagrees", 1)


def test_a_missing_environment_of_our_own_initialization() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.plan(1, by="distwatch", endpoint="")
    job.say(1, 1.0, ev.StepStarted(step=1, name="initialize", deadline_s=60.0))
    job.raise_finding(
        1, 1.1, "environment", code="rendezvous.env_missing", culprit_ranks=(1,), severity="crash"
    )
    job.refuse(1, 1.1, "InitFailed: this process cannot join a world: MASTER_ADDR not set")
    job.stack(1, 1.2, READING)
    job.tick(30.0)
    only_root(job, "rendezvous.env_missing", 1)


def test_one_cause_on_all_ranks_is_one_finding() -> None:
    job = RecordedJob(16)
    for rank in range(16):
        job.start(rank)
        job.raise_finding(
            rank, 2.0, "environment", code="rendezvous.backend_unavailable", severity="crash",
            culprit_ranks=(rank,), summary=f"rank {rank} cannot use backend 'nccl': torch sees no GPU",
        )  # fmt: skip
    (finding,) = judged(job)
    assert finding.culprit_ranks == tuple(range(16))
    assert finding.summary == (
        "rank 0 cannot use backend 'nccl': torch sees no GPU; the same holds for ranks 1-15"
    )


def test_what_differs_beyond_the_rank_stays_apart() -> None:
    job = RecordedJob(2)
    for rank, why in enumerate(("no GPU", "no driver")):
        job.start(rank)
        job.raise_finding(
            rank, 2.0, "environment", code="rendezvous.backend_unavailable", severity="crash",
            culprit_ranks=(rank,), summary=f"rank {rank} cannot use backend 'nccl': {why}",
        )  # fmt: skip
    assert [f.culprit_ranks for f in judged(job)] == [(0,), (1,)]


def test_a_load_that_a_rank_gave_up_is_said_of_a_dead_rank_alone() -> None:
    for survives in (True, False):
        job = RecordedJob(1)
        job.enter(0, 1)
        job.raise_finding(
            0, 3.0, "weights", code="load.stalled", severity="hang", culprit_ranks=(0,)
        )
        if not survives:
            job.exit(0, 3.5, code=1)
        job.tick(4.0)
        assert any(f.code == "load.stalled" for f in judged(job)) != survives
