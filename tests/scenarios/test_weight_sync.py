"""Worlds beside the default one: who has not come to them, and how they are shown."""

from __future__ import annotations

import json
import os
import sys

import pytest

from distwatch.diagnosis.facts.group_views import groups_of
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.support.ranks import DEADLINES, JOBS, REPOSITORY, Job, free_port, launch_ranks, torchrun
from tests.support.verdicts import assert_healthy

DOUBLE = REPOSITORY / "tests" / "doubles" / "sglang_without_sizes"


def environment() -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, JOBS, DOUBLE))),
        "DISTWATCH_DEADLINES": DEADLINES,
        "TEST_SYNC_PORT": str(free_port()),
    }


def start_trainer(job: Job, env: dict[str, str]) -> None:
    """A world of one beside the job's, which is rank 0 of the group."""
    trainer = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_PORT": str(free_port()),
        "TEST_MEMBER": json.dumps({"rank": 0}),
    }
    command = [sys.executable, str(JOBS / "weight_sync.py"), "sglang"]
    job.start(command, {**env, **trainer}, "trainer.log")


def members(*each: dict[str, object]) -> dict[int, dict[str, str]]:
    return {rank: {"TEST_MEMBER": json.dumps(member)} for rank, member in enumerate(each)}


@pytest.mark.parametrize("how", ["sglang", "store"])
def test_a_world_of_its_own_is_shown_as_one(how: str) -> None:
    with launch_ranks("weight_sync", 3, env=environment(), args=[how]) as job:
        job.wait_step("synced 3", {0, 1, 2})
        job.wait_step("gate end", {0, 1, 2})
        state = job.state()
        worlds = [w for p in state.processes.values() for w in p.extra_groups.values()]
        assert {w.group_rank for w in worlds} == {0, 1, 2}
        assert {w.size for w in worlds} == {3}
        assert len({w.endpoint for w in worlds}) == 1
        assert all(w.site and w.site.file.endswith(("weight_sync.py", "common.py")) for w in worlds)
        if how == "sglang":
            views = [view for view in groups_of(largest_job(state)) if view.world]
            assert [(view.pg_name, view.members) for view in views] == [
                ("weight_update", (0, 1, 2))
            ]
            assert "a separate world at 127.0.0.1" in views[0].title
        assert_healthy(job.judged_blocking())


@pytest.mark.parametrize("how", ["sglang", "store"])
def test_a_member_that_is_elsewhere(how: str) -> None:
    each = members({}, {}, {"stays": True})
    with launch_ranks("weight_sync", 3, env=environment(), env_of=each, args=[how]) as job:
        job.wait_step("elsewhere", {2})
        job.wait_verdict(
            "rendezvous.rank_missing", {2}, mentions=("weight_sync.py", "did not join")
        )


def test_a_member_that_came_before_is_known_by_its_rank_of_then() -> None:
    each = members(
        {"rank": 1, "again": True},
        {"rank": 0, "again": True},
        {"rank": 2, "again": True, "stays": True},
        {"stays": True},
    )
    with launch_ranks("weight_sync", 4, env=environment(), env_of=each, args=["sglang"]) as job:
        job.wait_step("elsewhere", {2, 3})
        finding = job.wait_verdict(
            "rendezvous.rank_missing", {2}, mentions=("when this group formed before",)
        )
        assert set(finding.waiting_ranks) == {0, 1}


def test_a_member_that_ended() -> None:
    each = members({}, {}, {"ends": True})
    with launch_ranks("weight_sync", 3, env=environment(), env_of=each, args=["sglang"]) as job:
        job.wait_step("joins", {0, 1})
        job.wait_verdict({"rendezvous.rank_died", "process.exited"}, {2})


def test_two_members_of_one_rank() -> None:
    each = members({}, {"rank": 1}, {"rank": 1})
    with launch_ranks("weight_sync", 3, env=environment(), env_of=each, args=["sglang"]) as job:
        job.wait_step("joins", {0, 1, 2})
        job.wait_verdict("rendezvous.rank_duplicated", {1, 2}, mentions=("weight_update",))


def test_members_that_count_each_other_differently() -> None:
    each = members({}, {}, {"size": 4})
    with launch_ranks("weight_sync", 3, env=environment(), env_of=each, args=["sglang"]) as job:
        job.wait_step("joins", {0, 1, 2})
        job.wait_verdict("rendezvous.world_size_disagrees", {2}, mentions=("3 and 4",))


def test_a_member_at_another_address() -> None:
    each = members({}, {}, {"port_off": 1})
    with launch_ranks("weight_sync", 3, env=environment(), env_of=each, args=["sglang"]) as job:
        job.wait_step("joins", {0, 1, 2})
        job.wait_verdict(
            "rendezvous.endpoint_disagrees", {2}, mentions=("waits at another address",)
        )


def test_all_have_come_and_torchrun_keeps_everybody_from_serving() -> None:
    env = {**environment(), "TEST_MEMBER": '{"size": 2}'}
    with torchrun("weight_sync", 2, env=env, args=["sglang"]) as job:
        job.wait_step("joins", {0, 1})
        found = job.wait_verdict("rendezvous.store_unreachable", (), mentions=("have come",))
        assert "TORCHELASTIC_USE_AGENT_STORE" in found.advice


def test_a_member_that_never_enters_a_collective_of_such_a_world() -> None:
    """A trainer and an engine are worlds of their own; the engine's second rank goes elsewhere."""
    env = environment()
    engine = {
        0: {"TEST_MEMBER": json.dumps({"rank": 1})},
        1: {"TEST_MEMBER": json.dumps({"rank": 2, "skips": True})},
    }
    with launch_ranks("weight_sync", 2, env=env, env_of=engine, args=["sglang"]) as job:
        start_trainer(job, env)
        job.wait_step("elsewhere", {1})
        job.wait_verdict(
            "process.data_stall", {1}, mentions=("weight_update", "rank 0 of another world")
        )
        found = diagnose(job.state())
        assert all(f.culprit_ranks in ((1,), ()) for f in found if f.blocks)
        (missing,) = [f for f in found if f.code == "collective.rank_missing" and f.culprit_ranks]
        assert "rank 1 never entered all_reduce #1 of weight_update" in missing.summary


def test_nobody_is_blamed_where_several_could_be_the_missing_one() -> None:
    each = members({}, {}, {"stays": True}, {"stays": True})
    with launch_ranks("weight_sync", 4, env=environment(), env_of=each, args=["sglang"]) as job:
        job.wait_step("elsewhere", {2, 3})
        job.wait_verdict("rendezvous.rank_missing", (), mentions=("cannot tell which process",))


def test_a_trainer_and_an_engine_are_two_worlds_that_meet_in_a_third() -> None:
    env = environment()
    engine = {
        0: {"TEST_MEMBER": json.dumps({"rank": 1})},
        1: {"TEST_MEMBER": json.dumps({"rank": 2, "stays": True})},
    }
    with launch_ranks("weight_sync", 2, env=env, env_of=engine, args=["sglang"]) as job:
        start_trainer(job, env)
        job.wait_step("elsewhere", {1})
        job.wait_verdict("rendezvous.rank_missing", {1}, mentions=("rank 0 of another world",))
        assert all(f.culprit_ranks in ((1,), ()) for f in diagnose(job.state()) if f.blocks)
