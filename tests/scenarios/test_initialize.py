"""Worlds that `distwatch.initialize` forms, and what it says of those that do not form."""

from __future__ import annotations

import os
import signal

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.scenarios.test_controls import assert_ended_well, is_in_init
from tests.support.outcomes import outcomes_of
from tests.support.ranks import PATIENT, launch_ranks, torchrun
from tests.support.verdicts import assert_healthy

HOW = {"TEST_HOW": "initialize"}
PATIENCE = {**HOW, "DISTWATCH_DEADLINES": PATIENT}
ARRIVAL = {
    **HOW,
    "DISTWATCH_DEADLINES": PATIENT,
    "TEST_ARGUMENTS": '{"deadlines": {"arrival": 4, "endpoint": 4}}',
}
PLAIN = {"TEST_HOW": "torch"}
MISSING = "rendezvous.rank_missing"
NEVER = "rendezvous.rank_never_started"


def test_every_step_of_every_rank_is_on_record() -> None:
    with launch_ranks("forms", 4, env=PATIENCE, args=["form_and_reduce"]) as job:
        assert_ended_well(job)
        for process in job.state().processes.values():
            names = [step.name for step in process.steps.values() if step.error is None]
            assert names[:4] == ["initialize", "environment", *names[2:4]]
            assert {"endpoint", "arrival", "agreement", "process group", "round trip"} <= set(names)
            assert process.planned is not None
            assert process.planned.by == "distwatch"


def test_under_torchrun() -> None:
    with torchrun("forms", 4, env=PATIENCE, args=["form_and_reduce"]) as job:
        assert_ended_well(job)


@pytest.mark.parametrize("plain", [{0}, {2}, {0, 1, 3}, {1, 2, 3}], ids=str)
def test_beside_ranks_that_call_torch_without_distwatch(plain: set[int]) -> None:
    each = dict.fromkeys(plain, PLAIN)
    with launch_ranks(
        "forms", 4, env=PATIENCE, env_of=each, without_distwatch=plain, args=["form_and_reduce"]
    ) as job:
        assert job.wait_ended() == [0] * 4
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())


@pytest.mark.parametrize("plain", [{2}, {0, 1, 3}], ids=str)
def test_beside_them_under_torchrun(plain: set[int]) -> None:
    env = {**PATIENCE, "TEST_PLAIN": ",".join(map(str, plain))}
    with torchrun("forms", 4, env=env, args=["form_and_reduce"]) as job:
        assert job.wait_ended() == [0]
        assert_healthy(job.judged_blocking())


def test_a_rank_that_comes_late_but_in_time() -> None:
    each = {2: {"TEST_CHOICE": "late"}}
    with launch_ranks("forms", 3, env=PATIENCE, env_of=each, args=["come_when_let_in"]) as job:
        job.wait_step("init", {0, 1})
        job.wait_step("gate door", {2})
        job.wait_ticks(3)
        job.open_gate("door", 2)
        assert_ended_well(job)


def test_a_rank_that_is_elsewhere_is_named_with_its_place() -> None:
    each = {2: {"TEST_CHOICE": "late"}}
    with launch_ranks("forms", 3, env=ARRIVAL, env_of=each, args=["come_when_let_in"]) as job:
        job.wait_step("gate door", {2})
        for outcome in outcomes_of(job, {0, 1}).values():
            assert (outcome["type"], outcome["missing"]) == ("InitTimeout", [2])
            assert outcome["arrived"] == [0, 1]
            assert (outcome["code"], outcome["culprits"]) == (MISSING, [2])
            assert "come_when_let_in" in outcome["places"]["2"]
            assert f"pid {job.pid_of(2)}" in outcome["places"]["2"]
        job.wait_verdict(MISSING, {2})


@pytest.mark.parametrize("absent", [{2, 3}, {0}], ids=str)
def test_ranks_that_never_started(absent: set[int]) -> None:
    there = sorted({0, 1, 2, 3} - absent)
    with launch_ranks("forms", 4, ranks=there, env=ARRIVAL, args=["form_and_reduce"]) as job:
        for outcome in outcomes_of(job, set(there)).values():
            assert outcome["type"] == "InitTimeout"
            assert set(outcome["missing"]) == absent
            assert all("no process" in place for place in outcome["places"].values())
        job.wait_verdict(NEVER, absent)


def test_a_rank_that_died_on_the_way() -> None:
    codes = ("rendezvous.rank_died", "process.exited")
    each = {1: {"TEST_CHOICE": "dies"}}
    with launch_ranks("forms", 3, env=ARRIVAL, env_of=each, args=["die_on_the_way"]) as job:
        job.wait_verdict(codes, {1}, mentions=("no data set of that name",))
        for outcome in outcomes_of(job, {0, 2}).values():
            assert (outcome["missing"], outcome["code"]) == ([1], "rendezvous.rank_died")
            assert "LookupError" in outcome["places"]["1"]


def test_a_rank_that_is_killed_in_the_middle() -> None:
    """It has come, and the world still waits for another: nobody but it may be blamed."""
    each = {2: {"TEST_CHOICE": "late"}}
    with launch_ranks("forms", 3, env=PATIENCE, env_of=each, args=["come_when_let_in"]) as job:
        job.wait_step("gate door", {2})
        job.wait_state(lambda state: is_in_step(state, 1, "arrival"))
        job.kill(1, signal.SIGKILL)
        job.wait_verdict(("process.killed", "rendezvous.rank_died"), {1})


def is_in_step(state: object, rank: int, name: str) -> bool:
    processes = state.processes.values()  # type: ignore[attr-defined]
    return any(
        process.global_rank == rank and any(step.name == name for step in process.open_steps())
        for process in processes
    )


def test_a_job_that_torchrun_restarts_is_judged_by_its_last_attempt() -> None:
    with torchrun(
        "forms", 2, env={**PATIENCE, "TEST_CHOICE": "dies once"}, args=["die_on_the_way"],
        options=["--max-restarts=1"],
    ) as job:  # fmt: skip
        assert job.wait_ended() == [0]
        job.wait_observer_ended()
        assert_healthy(diagnose(job.state()))


def test_two_jobs_on_one_machine_know_nothing_of_each_other() -> None:
    with (
        launch_ranks("forms", 2, env=PATIENCE, args=["form_and_reduce"]) as sound,
        launch_ranks("forms", 3, ranks=[0, 1], env=ARRIVAL, args=["form_and_reduce"]) as stuck,
    ):
        stuck.wait_verdict(NEVER, {2})
        assert_ended_well(sound)
        assert len(sound.state().processes) >= 2
        pids = {process.pid for process in sound.state().processes.values()}
        others = {p.pid for p in stuck.state().processes.values() if p.role == "rank"}
        assert not pids & others


# Rank 0 hosts the store: were it overdue first, the other's call would fail with it.
PATIENT = {"DISTWATCH_DEADLINES": "init=10,group=10,load=9,collective=9"}


@pytest.mark.parametrize("how", ["torch", "initialize"])
def test_on_hang_raise(how: str) -> None:
    env = {
        "TEST_HOW": how,
        "DISTWATCH_ON_HANG": "raise",
        "DISTWATCH_DEADLINES": "init=4,group=4,load=9,collective=9",
    }
    each = {0: {"TEST_CHOICE": "late", **PATIENT}}
    with launch_ranks(
        "forms", 3, ranks=[0, 1], env=env, env_of=each, args=["come_when_let_in"]
    ) as job:
        job.wait_step("init", {1})
        job.open_gate("door", 0)
        for outcome in outcomes_of(job, {0, 1}).values():
            assert outcome["type"] == "InitTimeout"
            assert (outcome["missing"], outcome["code"]) == ([2], NEVER)
        job.wait_verdict(NEVER, {2})


def test_on_hang_raise_where_nobody_listens() -> None:
    env = {"DISTWATCH_ON_HANG": "raise"}
    with launch_ranks("forms", 3, ranks=[1], env=env, args=["form_and_reduce"]) as job:
        (outcome,) = outcomes_of(job, {1}).values()
        assert (outcome["type"], outcome["missing"]) == ("InitTimeout", [0, 2])


def test_on_hang_abort() -> None:
    env = {"DISTWATCH_ON_HANG": "abort"}
    each = {0: {"TEST_CHOICE": "late", **PATIENT}}
    with launch_ranks(
        "forms", 3, ranks=[0, 1], env=env, env_of=each, args=["come_when_let_in"]
    ) as job:
        job.wait_step("init", {1})
        job.open_gate("door", 0)
        assert job.wait_ended() == [75, 75]
        assert "rank 2 of 3 never started" in job.output()
        assert "exit code 75" in job.output()
        job.wait_verdict(NEVER, {2})
        reasons = [
            e.event.reason for e in job.state().timeline if isinstance(e.event, ev.ProcessEnding)
        ]
        assert len(reasons) == 2
        assert all(reason.startswith("DISTWATCH_ON_HANG=abort") for reason in reasons)


def test_on_hang_abort_in_a_collective() -> None:
    """The culprit ends, once the incident is on disk; whoever waits for it is left to the launcher."""
    env = {
        "DISTWATCH_ON_HANG": "abort",
        "DISTWATCH_DEADLINES": "init=60,group=60,load=60,collective=3",
    }
    each = {1: {"TEST_CHOICE": "late"}}
    with launch_ranks("forms", 2, env=env, env_of=each, args=["reduce_but_for_one"]) as job:
        job.wait_step("gate door", {1})
        assert job.launched[1].wait(60) == 75
        assert "DISTWATCH_ON_HANG=abort ends pid" in job.output()
        job.wait_verdict("process.data_stall", {1}, mentions=("reduce_but_for_one",))
        kinds = [type(e.event) for e in job.state().timeline]
        assert kinds.index(ev.FindingsJudged) < kinds.index(ev.RankAborted)


def test_on_hang_abort_without_an_observer() -> None:
    """Nobody knows the culprit then: one rank waits, and ends itself."""
    env = {
        "DISTWATCH_ON_HANG": "abort",
        "DISTWATCH_OBSERVER": "off",
        "DISTWATCH_DEADLINES": "init=60,group=60,load=60,collective=3",
    }
    each = {1: {"TEST_CHOICE": "late"}}
    with launch_ranks("forms", 2, env=env, env_of=each, args=["reduce_but_for_one"]) as job:
        job.wait_step("gate door", {1})
        assert job.launched[0].wait(60) == 75


def test_on_hang_report_leaves_the_job_alone() -> None:
    with launch_ranks("forms", 3, ranks=[0, 1], args=["form_and_reduce"]) as job:
        job.wait_verdict(NEVER, {2})
        job.wait_ticks(2)
        assert is_in_init(job.state(), 0)
        assert is_in_init(job.state(), 1)
        assert all(os.path.isdir(f"/proc/{job.pid_of(rank)}") for rank in (0, 1))
