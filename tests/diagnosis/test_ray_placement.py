"""Actors that Ray has not placed and groups that it cannot meet: one finding each, nobody else blamed."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.diagnosis.recorded import judged, only_root
from tests.diagnosis.recorded_ray import RecordedActors, running, waiting_for_rank_1, without_looks
from tests.support.verdicts import text_of

PENDING = "PENDING_CREATION"


def told(job: RecordedActors) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in judged(job)]


# ---- never placed ----------------------------------------------------------------------------


def test_an_actor_that_no_node_can_hold_never_started() -> None:
    job = waiting_for_rank_1()
    job.actor(1, 1.0, PENDING, needs={"CPU": 4.0})
    job.actor(None, 1.0, PENDING, name="logger", needs={"CPU": 1.0})
    job.look(13.0)
    finding = only_root(job, "rendezvous.rank_never_started", 1)
    assert finding.waiting_ranks == (0,)
    for words in ('Trainer "t1"', "needs 4 CPU", "no node has more than 1 CPU", "1 other actor waits"):  # fmt: skip
        assert words in finding.summary
    assert "logger" not in finding.summary


def test_resources_that_others_hold_are_told_from_those_that_do_not_exist() -> None:
    job = waiting_for_rank_1()
    job.actor(1, 1.0, PENDING, needs={"CPU": 1.0})
    job.look(13.0)
    finding = only_root(job, "rendezvous.rank_never_started", 1)
    assert "in use" in finding.summary
    assert "will fit once others end" in finding.summary


def test_pending_for_a_while_is_nothing_and_neither_is_what_was_placed_since() -> None:
    job = waiting_for_rank_1()
    job.actor(1, 1.0, PENDING, needs={"CPU": 4.0})
    job.look(6.0)
    assert diagnose(job.state) == []
    job.actor(1, 7.0)
    job.enter(1, at=7.5)
    job.form(0, 1, at=8.0)
    job.look(30.0)
    assert judged(job) == []


def test_what_was_not_looked_at_since_has_not_waited_since() -> None:
    """Ray's control store is gone: the actor may have been placed."""
    job = RecordedActors(2)
    job.actor(1, 1.0, PENDING, needs={"CPU": 4.0})
    job.look(5.0)
    job.see(500.0, ev.NotObserved(host="node1", what="Ray", why="it does not answer"))
    assert judged(job) == []
    job.look(501.0)
    assert told(job) == [("hang", "rendezvous.rank_never_started")]
    assert "Ray" not in job.state.hosts["node1"].not_observed


def test_an_actor_without_a_rank_is_named_and_no_rank_is_guessed() -> None:
    job = RecordedActors(2)
    job.node(1.0)
    job.actor(None, 1.0, PENDING, name="engine", needs={"GPU": 1.0})
    job.look(200.0)
    finding = only_root(job, "rendezvous.rank_never_started")
    assert 'Ray has not placed Trainer "engine"' in finding.summary
    assert "no node has any GPU" in finding.summary


def test_beside_ranks_that_compute_it_is_a_warning() -> None:
    job = running()
    job.actor(None, 1.0, PENDING, name="engine", needs={"GPU": 1.0})
    job.look(40.0)
    assert told(job) == [("warning", "rendezvous.rank_never_started")]


def test_a_rank_that_nobody_saw_and_an_actor_without_rank_are_told_as_one() -> None:
    job = waiting_for_rank_1()
    job.actor(None, 1.0, PENDING, name="t1", needs={"CPU": 4.0})
    job.look(13.0)
    finding = only_root(job, "rendezvous.rank_never_started", 1)
    assert len(judged(job)) == 1
    assert 'Ray has not placed Trainer "t1"' in finding.summary


def test_a_rank_that_nobody_saw_and_an_actor_without_rank_that_died_are_told_as_one() -> None:
    job = waiting_for_rank_1()
    job.actor(None, 4.0, "DEAD", name="t1", death="init_failed", death_text="ValueError: no")
    job.look(13.0)
    finding = only_root(job, "rendezvous.rank_never_started", 1)
    assert len(judged(job)) == 1
    assert 'Trainer "t1" failed in __init__: ValueError: no' in finding.summary


def test_whoever_waits_for_a_rank_that_is_elsewhere_does_not_wait_for_another_actor() -> None:
    job = waiting_for_rank_1()
    job.start(1)
    job.actor(1, 1.0)
    job.stack(1, 12.0, (ev.Frame(function="read", file="/job/data.py", line=3),))
    job.actor(None, 1.0, PENDING, name="engine", needs={"GPU": 1.0})
    job.placement_group(1.0, bundles=({"GPU": 1.0},))
    job.look(13.0)
    only_root(job, "rendezvous.rank_missing", 1)


def test_an_actor_whose_arguments_are_not_ready_waits_for_them() -> None:
    job = waiting_for_rank_1()
    job.actor(1, 1.0, "DEPENDENCIES_UNREADY", needs={"CPU": 1.0})
    job.look(13.0)
    finding = only_root(job, "rendezvous.rank_never_started", 1)
    assert "constructor" in finding.summary
    assert "CPU" not in finding.summary


def test_an_actor_that_lives_where_nobody_observes_has_not_never_started() -> None:
    job = waiting_for_rank_1()
    job.hosts[1] = "node2"
    job.node(1.0, "node2")
    job.actor(1, 1.0, PENDING, worker_id="w1", pid=77, node_id="node-of-node2")  # in its __init__
    job.look(13.0)
    assert only_root(without_looks(job), "rendezvous.rank_never_started", 1)
    finding = only_root(job, "rendezvous.rank_missing", 1)
    assert finding.confidence <= 0.5
    assert "node2" in finding.summary
    assert "pid 77" in finding.summary


# ---- placement groups --------------------------------------------------------------------------


def test_a_group_that_cannot_be_met_is_one_finding_with_its_actors_ranks() -> None:
    job = waiting_for_rank_1()
    job.world = 4
    job.placement_group(1.0, bundles=({"CPU": 8.0}, {"CPU": 8.0}), scheduling="INFEASIBLE")
    for rank in (1, 2, 3):
        job.actor(rank, 1.0, PENDING, needs={"CPU": 8.0}, placement_group="g")
    job.look(13.0)
    finding = only_root(job, "rendezvous.rank_never_started", 1, 2, 3)
    assert len(judged(job)) == 1
    for words in ('placement group "grp"', "2 × (8 CPU)", "no node has more than 1 CPU", "3 actors"):  # fmt: skip
        assert words in finding.summary
    assert "INFEASIBLE" in text_of(finding)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("STRICT_PACK", "all of it on one node, but no node has more than 1 CPU"),
        ("STRICT_SPREAD", "needs 2 nodes, but only 1 of the cluster's 1 can hold a bundle"),
        ("PACK", "all nodes together have 1 CPU"),
    ],
)
def test_what_a_group_lacks_depends_on_its_strategy(strategy: str, words: str) -> None:
    job = RecordedActors(2)
    job.node(1.0)
    job.placement_group(1.0, bundles=({"CPU": 1.0}, {"CPU": 1.0}), strategy=strategy)
    job.look(200.0)
    assert words in only_root(job, "rendezvous.rank_never_started").summary


def test_a_group_that_is_met_or_removed_is_healthy() -> None:
    job = running()
    job.placement_group(1.0, bundles=({"CPU": 1.0},))
    job.placement_group(30.0, "CREATED", bundles=({"CPU": 1.0},))
    job.look(40.0)
    assert judged(job) == []
