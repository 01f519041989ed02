"""Who has not come to an initialization: told at once, at the deadline, or not at all."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.state.flow import Flow
from tests.diagnosis.recorded import READING, SECOND, RecordedJob, frame, judged, only_root

TIMED_OUT = (
    "torch.distributed.DistStoreError: Timed out after 6 seconds waiting for clients. 2/3 joined."
)
LATE = "InitTimeout: arrival did not finish within 10 s; arrived: ranks 0-1; missing: rank 2"


def test_a_rank_that_joins_late_but_in_time_is_no_finding() -> None:
    job = RecordedJob(3)
    job.launch()
    job.start(0, 1)
    job.enter(0, 1)
    for second in range(2, 11):
        job.tick(second)
        assert judged(job) == [], f"after {second} s"
    job.start(2, at=10.2)
    job.enter(2, at=10.5)
    job.form(0, 1, 2, at=10.8)
    for second in (11, 20, 60):
        job.tick(second)
        assert judged(job) == []


def test_a_rank_that_never_started() -> None:
    job = RecordedJob(3)
    job.enter(0, 1)
    job.tick(12.0)
    verdict = only_root(job, "rendezvous.rank_never_started", 2)
    assert verdict.waiting_ranks == (0, 1)
    assert "10.0.0.1:29500" in verdict.summary
    assert "train.py:10" in " ".join(e.text for e in verdict.evidence)


def test_once_its_launcher_is_gone_nobody_will_start_it_any_more() -> None:
    job = RecordedJob(3)
    launcher = job.launch()
    job.enter(0, 1)
    job.tick(4.0)
    assert judged(job) == []
    job.see(4.5, ev.ExitSeen(process=launcher, signal=9))
    job.tick(5.0)
    assert judged(job) == [], "its end may be seen before the start of a rank"
    job.tick(7.0)
    only_root(job, "rendezvous.rank_never_started", 2)


def test_on_other_hosts_a_rank_may_start_without_that_launcher() -> None:
    job = RecordedJob(3, single_node=False)
    launcher = job.launch()
    job.enter(0, 1)
    job.see(2.0, ev.ExitSeen(process=launcher, signal=9))
    job.tick(8.0)
    assert judged(job) == []


@pytest.mark.parametrize("error", [TIMED_OUT, LATE, "RuntimeError: Wait timeout"])
def test_those_who_time_out_are_victims(error: str) -> None:
    job = RecordedJob(3)
    job.enter(0, 1)
    for rank in (0, 1):
        job.refuse(rank, 7.0, error)
    job.tick(8.0)
    assert only_root(job, "rendezvous.rank_never_started", 2).waiting_ranks == (0, 1)


def test_our_own_steps_have_deadlines_of_their_own() -> None:
    job = RecordedJob(2)
    job.start(0)
    job.plan(0, by="distwatch")
    job.say(0, 1.0, ev.StepStarted(step=1, name="initialize", deadline_s=60.0))
    job.say(0, 1.0, ev.StepStarted(step=2, name="arrival", parent=1, deadline_s=5.0))
    job.tick(5.5)
    assert judged(job) == []
    job.tick(6.5)
    only_root(job, "rendezvous.rank_never_started", 1)


def test_torchs_own_step_inside_ours_is_no_second_initialization() -> None:
    job = RecordedJob(1)
    job.start(0)
    job.plan(0, by="distwatch")
    job.say(0, 1.0, ev.StepStarted(step=1, name="initialize", deadline_s=60.0))
    job.say(0, 1.0, ev.StepStarted(step=2, name="process group", parent=1))
    job.say(0, 1.0, ev.StepStarted(step=3, name="init_process_group", parent=2))
    job.say(0, 2.0, ev.StepEnded(step=3, error=TIMED_OUT))
    job.tick(50.0)
    assert judged(job) == []


def reinitialized(world: int) -> RecordedJob:
    """All ranks have formed a world; all but the last have left it for another."""
    job = RecordedJob(world)
    job.enter(*range(world))
    job.form(*range(world))
    for rank in range(world - 1):
        job.say(rank, 20.0, ev.GroupDestroyed(pg_name=""))
        job.enter(rank, at=21.0, step=11, number=2)
    return job


def test_a_rank_that_stays_in_the_first_world_has_not_arrived_in_the_second() -> None:
    job = reinitialized(3)
    job.stack(2, 30.0, READING)
    job.tick(30.0)
    assert judged(job) == []
    job.tick(32.0)
    verdict = only_root(job, "rendezvous.rank_missing", 2)
    assert "again" in verdict.summary
    assert "data.py:42" in verdict.summary


def test_the_address_of_the_first_world_is_no_arrival_in_the_second() -> None:
    job = reinitialized(3)
    job.probe("store", 25.0, clients=3, arrived=(0, 1, 2))
    job.tick(32.0)
    only_root(job, "rendezvous.rank_missing", 2)


def test_a_world_that_is_formed_again_is_no_finding() -> None:
    job = reinitialized(2)
    job.say(1, 22.0, ev.GroupDestroyed(pg_name=""))
    job.enter(1, at=23.0, step=11, number=2)
    job.form(0, 1, at=24.0, step=11)
    job.tick(120.0)
    assert judged(job) == []


def test_a_world_of_ones_own_before_does_not_make_the_others_late() -> None:
    job = RecordedJob(3)
    job.start(0, 1)
    job.enter(1, at=0.5, global_rank=0, world_size=1, endpoint="localhost:1234")
    job.form(1, at=0.6, members=(0,))
    job.say(1, 0.7, ev.GroupDestroyed(pg_name=""))
    job.enter(0, at=1.0)
    job.enter(1, at=1.0, step=11, number=2)
    job.tick(12.0)
    only_root(job, "rendezvous.rank_never_started", 2)


def test_ranks_that_published_their_address_have_arrived() -> None:
    job = RecordedJob(4, single_node=False)
    job.enter(0, 1)
    job.probe("store", 5.0, clients=3, arrived=(1, 2))
    job.tick(12.0)
    verdict = only_root(job, "rendezvous.rank_never_started", 3)
    assert "3 torch clients have joined" in " ".join(e.text for e in verdict.evidence)
    assert {e.source for e in verdict.evidence} >= {"store", "journal", "proc"}


def test_clients_that_nobody_sees_make_it_less_sure_who_is_missing() -> None:
    job = RecordedJob(4, single_node=False)
    job.enter(0, 1)
    job.probe("store", 5.0, clients=3)
    job.tick(12.0)
    assert only_root(job, "rendezvous.rank_never_started", 2, 3).confidence <= 0.5


def test_a_rank_without_distwatch_that_stands_in_init_has_arrived() -> None:
    job = RecordedJob(3)
    job.enter(0)
    job.sight(1, 1.0)
    inside = frame("init_process_group", "/venv/torch/distributed/distributed_c10d.py")
    job.stack(1, 9.0, (frame("main", "/job/train.py"), inside))
    job.tick(12.0)
    only_root(job, "rendezvous.rank_never_started", 2)


def test_a_rank_that_died_is_known_at_once() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.exit(1, 2.1, signal=9)
    verdict = only_root(job, "rendezvous.rank_died", 1)
    assert "SIGKILL" in verdict.summary
    assert verdict.waiting_ranks == (0,)


def test_a_rank_that_is_killed_in_its_initialization() -> None:
    job = RecordedJob(3)
    job.enter(0, 1, 2)
    job.exit(2, 2.1, signal=9)
    lost = "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]"
    job.refuse(0, 2.3, lost)
    job.refuse(1, 2.4, lost)
    assert only_root(job, "process.killed", 2).waiting_ranks == (0, 1)


def test_who_still_had_time_when_another_died_is_not_to_blame() -> None:
    job = RecordedJob(4)
    job.start(0, 1, 2, 3)
    job.enter(0, 1, 2)
    job.exit(2, 3.0, signal=9)
    job.stack(3, 5.0, READING)
    job.tick(30.0)
    only_root(job, "process.killed", 2)
    for rank in (0, 1):
        job.refuse(rank, 31.0, "DistStoreError: wait timeout after 30000ms")
    only_root(job, "process.killed", 2)


def test_a_rank_whose_initialization_failed_and_that_went_on() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.refuse(1, 2.0, "TypeError: unexpected keyword argument", uncaught=False)
    job.stack(1, 11.0, READING)
    job.tick(12.0)
    verdict = only_root(job, "rendezvous.rank_missing", 1)
    assert "continued without" in verdict.summary
    assert "TypeError" in " ".join(e.text for e in verdict.evidence)


def test_an_elastic_restart_starts_anew() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.form(0, 1)
    job.fail(1, 5.0, "ValueError", "bad batch")
    job.exit(1, 5.2, code=1)
    job.exit(0, 5.5, signal=15)
    for process, rank in ((10, 0), (11, 1)):
        job.stand(process, global_rank=rank, restart=1)
        job.start(process, at=7.0)
        job.enter(process, at=8.0)
    job.tick(8.5)
    assert judged(job) == []
    job.form(10, 11, at=9.0)
    job.tick(100.0)
    assert judged(job) == []


def two_worlds() -> RecordedJob:
    """Ranks 0 and 1 of one world, and of another at the next port; both under one run."""
    job = RecordedJob(2)
    for process, rank in ((10, 0), (11, 1)):
        job.stand(process, global_rank=rank, master_port=29501)
    job.start(10, 0, 1, 11)
    job.enter(10, 0, 1)
    return job


def test_two_worlds_under_one_run() -> None:
    job = two_worlds()
    job.enter(11)
    job.form(10, 0, 1, 11)
    for process, seq in ((0, 9), (1, 9), (10, 4), (11, 4)):
        job.pulse(process, at=59, groups={"0": (seq, seq, 20.0)})
    job.tick(60.0)
    assert judged(job) == [], "they have the same group names, and nothing to do with each other"


def test_of_two_worlds_the_one_that_cannot_form_is_judged_by_itself() -> None:
    job = two_worlds()
    job.form(0, 1)
    job.stack(11, 12.0, READING)
    job.tick(13.0)
    verdict = only_root(job, "rendezvous.rank_missing", 1)
    assert verdict.waiting_ranks == (0,)
    assert "pid 1011" in verdict.evidence[0].text


def test_a_rank_that_comes_after_another_has_given_up() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.refuse(0, 7.0, TIMED_OUT)
    job.enter(1, at=15.0, inner="rendezvous")
    job.probe("store", 2.0)
    job.probe("refused", 16.0)
    job.tick(40.0)
    verdict = only_root(job, "rendezvous.rank_missing", 1)
    assert "8.0 s after rank 0 had given up" in verdict.summary
    assert verdict.waiting_ranks == (0,)


def test_all_that_come_again_after_a_timeout_are_not_late() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.refuse(0, 7.0, TIMED_OUT, uncaught=False)
    job.start(1, at=8.0)
    job.enter(0, at=9.0, step=11, number=2)
    job.enter(1, at=9.0)
    job.tick(10.0)
    assert judged(job) == []


@pytest.mark.parametrize("signal", [9, 15])
def test_a_wait_that_somebody_cleared_away_stays_the_verdict(signal: int) -> None:
    job = RecordedJob(3)
    job.enter(0, 1)
    for rank in (0, 1):
        job.exit(rank, 30.0, signal=signal)
    assert only_root(job, "rendezvous.rank_never_started", 2).waiting_ranks == (0, 1)


def test_a_rank_that_was_elsewhere_until_the_job_was_ended() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.stack(1, 10.0, READING)
    for rank in (0, 1):
        job.exit(rank, 30.0, signal=15)
    verdict = only_root(job, "rendezvous.rank_missing", 1)
    assert verdict.summary.startswith("just before the job was ended: rank 1 is alive")
    assert "rank 1 is at data.py:42" in verdict.summary


def test_a_job_that_is_ended_while_it_starts_blames_nobody() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    for rank in (0, 1):
        job.exit(rank, 3.0, signal=2)
    assert not any(finding.blocks for finding in judged(job))


def test_torchrun_ends_a_rank_that_others_waited_for() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.stack(1, 6.0, READING)
    job.refuse(0, 7.0, TIMED_OUT)
    job.exit(1, 7.5, signal=15)
    only_root(job, "rendezvous.rank_missing", 1)


@pytest.mark.parametrize("uncaught", [True, False], ids=["they end", "they go on"])
def test_who_was_waited_for_until_the_deadline_has_no_more_time(uncaught: bool) -> None:
    """Whatever little is known of what it moves, also on a busy host: who waited for it has given up."""
    job = RecordedJob(3)
    job.deadlines = {**job.deadlines, "collective": 600.0}
    job.start(2)
    job.enter(0, 1)
    for rank in (0, 1):
        job.refuse(rank, 12.0, LATE, uncaught=uncaught)
    job.stack(2, 13.0, READING)
    job.sample(2, 13.0, "S", flow=Flow(over_s=1.0, at_ns=13 * SECOND))
    job.pulse(2, at=13.0)
    job.see(13.0, ev.HostSampled(host=job.host(2), cpus=2, load=20.0))
    job.tick(14.0)
    only_root(job, "rendezvous.rank_missing", 2)
