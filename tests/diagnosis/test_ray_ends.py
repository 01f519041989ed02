"""Actors that end, restart or lose their node, by Ray's word: one finding each, nobody else blamed."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.state.finding import Finding
from tests.diagnosis.recorded import blamed, judged, only_root
from tests.diagnosis.recorded_ray import RecordedActors, running, waiting_for_rank_1, without_looks
from tests.support.verdicts import text_of

PENDING = "PENDING_CREATION"


# ---- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", ["exited", "killed_by_ray", "released", "owner_died"])
def test_actors_that_end_as_somebody_wants_it_are_healthy(death: str) -> None:
    job = running()
    for rank in (0, 1):
        job.begin(rank, 7, "from_pretrained", 39.0)
        job.see(41.0, ev.ExitSeen(process=job.key(rank), exit_code=1))
        job.actor(rank, 41.0, "DEAD", death=death)
    job.look(42.0)
    assert judged(job) == []


def test_a_jobs_rows_are_over_with_its_driver() -> None:
    job = RecordedActors(2)
    job.actor(0, 1.0, "DEAD", death="worker_died", death_text="it broke")
    job.actor(1, 1.0, PENDING, needs={"CPU": 4.0})
    job.end_ray_job(3.0)
    job.look(500.0)
    assert judged(job) == []


def test_an_exception_in_init_is_the_actors_end_although_ray_ended_its_worker() -> None:
    """The worker's exit code is 1 as in any other end: Ray's word tells them apart."""
    job = waiting_for_rank_1()
    job.start(1)
    job.place(1)
    job.exit(1, 4.0, code=1)
    why = "ValueError: no such file (train.py:12 in __init__)"
    job.actor(1, 4.0, "DEAD", death="init_failed", death_text=why)
    job.look(6.0)
    finding = only_root(job, "rendezvous.rank_died", 1)
    assert len(judged(job)) == 1
    assert why in finding.summary


def test_a_death_that_nobody_observed_is_told_by_ray() -> None:
    job = waiting_for_rank_1()
    job.actor(1, 4.0, "DEAD", death="environment_failed", death_text="no such package")
    job.look(6.0)
    finding = only_root(job, "rendezvous.rank_died", 1)
    assert "no such package" in finding.summary
    assert finding.waiting_ranks == (0,)


def test_an_actor_that_was_killed_on_purpose_is_a_loss_once_others_wait_for_it_in_vain() -> None:
    job = waiting_for_rank_1()
    job.actor(1, 4.0, "DEAD", death="killed_by_ray", death_text="killed by `ray.kill`")
    job.look(6.0)
    assert judged(job) == []
    job.look(13.0)
    finding = only_root(job, "rendezvous.rank_died", 1)
    assert "`ray.kill`" in finding.summary
    assert len(judged(job)) == 1


def test_rays_memory_monitor_is_no_unknown_killer() -> None:
    job = running()
    job.train(0, at=41.0, waits=(0,))
    job.exit(1, 41.0, signal=9)
    text = "Memory on the node was 59.3GB / 60.0GB"
    job.actor(1, 41.0, "DEAD", death="out_of_memory", death_text=text)
    job.look(42.0)
    finding = only_root(job, "process.oom_killed", 1)
    assert text in text_of(finding)
    assert [f.code for f in judged(job) if f.code.startswith("process.")] == ["process.oom_killed"]


def test_our_own_exit_code_stays_and_rays_words_join_it() -> None:
    job = running()
    job.exit(1, 41.0, code=7)
    job.actor(1, 41.0, "DEAD", death="worker_died", death_text="Worker exits unexpectedly.")
    job.look(42.0)
    finding = only_root(job, "process.exited", 1)
    assert "exit code 7" in finding.summary
    assert "Worker exits unexpectedly." in finding.summary


def test_a_dead_actor_that_another_has_replaced_is_no_loss() -> None:
    job = running()
    job.actor(None, 1.0, "DEAD", name="old", death="worker_died", global_rank=1)
    job.look(42.0)
    assert judged(job) == []


def test_an_actor_without_a_rank_that_died_beside_computing_ranks_is_a_warning() -> None:
    job = running()
    job.actor(None, 30.0, "DEAD", name="loader", death="worker_died", death_text="it broke")
    job.look(42.0)
    (finding,) = judged(job)
    assert (finding.severity, finding.code, finding.culprit_ranks) == ("warning", "process.exited", ())  # fmt: skip
    assert 'Trainer "loader"' in finding.summary


# ---- nodes -------------------------------------------------------------------------------------


def of_two_nodes() -> RecordedActors:
    """Ranks 2 and 3 are on node2, of which nothing is heard since second 12; the others wait."""
    job = RecordedActors(4)
    job.hosts = {2: "node2", 3: "node2"}
    job.started(0, 1, 2, 3)
    job.node(1.0)
    job.node(1.0, "node2")
    job.train(2, 3, at=12.0)
    job.train(0, 1, at=40.0, waits=(0, 1))
    job.see(30.0, ev.LinkChanged(host="node1", peer="node2", linked=False, silent_s=18.0))
    return job


def test_a_node_that_ray_declares_dead_took_its_ranks_with_it() -> None:
    job = of_two_nodes()
    job.node(30.0, "node2", alive=False, death_text="missing too many heartbeats")
    job.look(40.0)
    assert blamed(judged(without_looks(job))) == set(), (
        "who is only out of sight is blamed for nothing"
    )
    finding = only_root(job, "process.exited", 2, 3)
    assert finding.waiting_ranks == (0, 1)
    assert "Ray: node node2" in finding.summary
    assert "missing too many heartbeats" in finding.summary


def test_who_is_seen_to_live_is_not_dead_whatever_ray_says_of_its_node() -> None:
    job = of_two_nodes()
    job.see(31.0, ev.LinkChanged(host="node1", peer="node2", linked=True))
    job.node(32.0, "node2", alive=False, death_text="missing too many heartbeats")
    job.train(2, 3, at=40.0)
    job.look(40.0)
    finding = only_root(job, "collective.rank_missing", 2, 3)
    assert "Ray" not in finding.summary


def test_a_node_that_lives_is_no_reason_although_its_observer_is_silent() -> None:
    job = of_two_nodes()
    job.look(40.0)
    assert blamed(judged(job)) == set()


# ---- restarts ------------------------------------------------------------------------------------


def restarted(job: RecordedActors, times: int, state: str = "RESTARTING") -> None:
    ends = ("Worker exits with an exit code 7.",) * min(times, 4)
    row = {"restarts": times, "restarts_allowed": 5, "ends": ends}
    job.actor(1, 3.0, state, **({"worker_id": "w9", "pid": 999, "node_id": "x"} | row))


def test_a_loop_of_restarts_that_others_wait_for_is_their_hang() -> None:
    job = waiting_for_rank_1()
    restarted(job, 3)
    job.look(13.0)
    finding = only_root(job, "process.exited", 1)
    assert finding.severity == "crash"
    assert "restarted 3 of 5 times" in finding.summary
    assert "each time because: Worker exits with an exit code 7." in finding.summary


@pytest.mark.parametrize(("times", "state", "codes"), [
    (1, "ALIVE", []), (2, "ALIVE", ["warning"]), (1, "RESTARTING", ["warning"]),
])  # fmt: skip
def test_restarts_that_nobody_waits_for_yet(times: int, state: str, codes: list[str]) -> None:
    job = waiting_for_rank_1()
    restarted(job, times, state)
    job.look(5.0)
    assert [finding.severity for finding in judged(job)] == codes


def test_past_its_limit_it_is_dead_with_all_its_restarts() -> None:
    job = running()
    job.exit(1, 41.0, code=7)
    end = "Worker exits with an exit code 7."
    row = {"restarts": 2, "restarts_allowed": 2, "ends": (end, end), "death_text": end}
    job.actor(1, 41.0, "DEAD", death="worker_died", **row)
    job.look(42.0)
    finding = only_root(job, "process.exited", 1)
    assert "restarted 2 of 2 times" in finding.summary


# ---- hung actors, several worlds -----------------------------------------------------------------


def test_a_hung_actor_is_named_with_its_method() -> None:
    job = running()
    job.train(0, at=41.0, waits=(0,))
    job.stack(1, 41.0, (ev.Frame(function="read", file="/job/data.py", line=3),))
    pulse = ev.Pulse(beat=90, beat_ns=41_000_000_000, title="ray::Trainer.fit",
                     groups=(ev.GroupProgress(pg_name="0", enqueued=4, completed=4),))  # fmt: skip
    job.see(41.0, ev.PulseRead(process=job.key(1), pulse=pulse))
    job.look(41.0)
    finding = only_root(job, "collective.rank_missing", 1)
    assert 'Trainer "t1" in fit' in text_of(finding)


def test_of_two_worlds_in_one_run_each_has_its_own_rows() -> None:
    job = RecordedActors(2)
    for rank in (0, 1):
        job.enter(rank)
        job.place(rank)
        job.actor(rank, 1.0)
    job.form(0, 1)
    job.stand(10, global_rank=0, world_size=3, master_port=1234)
    job.enter(10)
    job.placement_group(1.0, bundles=({"GPU": 1.0},))
    for rank in (1, 2):
        row = {"world_size": 3, "needs": {"GPU": 1.0}, "placement_group": "g", "name": f"r{rank}"}
        job.actor(rank, 1.0, PENDING, **row)
    job.node(1.0)
    job.train(0, 1, at=39.0)
    job.look(40.0)
    findings: list[Finding] = judged(job)
    assert [(f.code, f.culprit_ranks) for f in findings if f.blocks] == [
        ("rendezvous.rank_never_started", (1, 2))
    ]
    assert findings[0].waiting_ranks == (0,)
