"""Jobs that nothing is wrong with: nobody may hear of a hang or a crash."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.leftovers import is_running, processes_of
from tests.support.ranks import (
    PATIENT,
    Job,
    launch_ranks,
    process_of,
    single_process,
    torchrun,
)
from tests.support.verdicts import assert_healthy

PATIENCE = {"DISTWATCH_DEADLINES": PATIENT}


def assert_ended_well(job: Job) -> None:
    """All exit codes are 0, the observer leaves, and no verdict of the whole run was bad."""
    codes = job.wait_ended()
    assert codes == [0] * len(codes)
    job.wait_observer_ended()
    state = job.state()
    assert_healthy(diagnose(state))
    assert_healthy(job.judged_blocking())


def is_in_init(state: RunState, rank: int) -> bool:
    process = process_of(state, rank)
    return process is not None and any(
        step.name == "init_process_group" for step in process.open_steps()
    )


def is_in_collective(state: RunState, rank: int) -> bool:
    process = process_of(state, rank)
    pulse = process.outside.pulse if process else None
    return pulse is not None and any(g.enqueued > max(g.completed, 0) for g in pulse.groups)


def has_ended(state: RunState, rank: int) -> bool:
    process = process_of(state, rank)
    return process is not None and process.ended_ns is not None


def test_a_sound_torchrun_job_of_which_nothing_is_left() -> None:
    with torchrun("healthy", 2) as job:
        job.wait_step("done", {0, 1})
        assert_ended_well(job)
        assert [pid for pid in processes_of(job.root) if is_running(pid)] == []


def test_a_rank_that_starts_late_but_within_the_deadline() -> None:
    with launch_ranks("late_before_init", 2, env=PATIENCE) as job:
        job.wait_step("gate token", {1})
        job.wait_state(lambda state: is_in_init(state, 0))
        job.wait_ticks(3)
        assert_healthy(diagnose(job.state()))
        job.open_gate("token", 1)
        job.wait_step("reduced", {0, 1})
        assert_ended_well(job)


def test_steps_that_are_slow_but_move() -> None:
    with launch_ranks("slow_steps", 2) as job:
        job.wait_step("done", {0, 1})
        assert_ended_well(job)


@pytest.mark.parametrize("way", ["return", "os_exit"])
def test_ranks_that_end_at_different_times(way: str) -> None:
    with launch_ranks("different_ends", 2, args=(way,)) as job:
        job.wait_step("gate last work", {1})
        job.wait_state(lambda state: has_ended(state, 0))
        # Longer than the deadline of a collective: who works alone afterwards is late for nothing.
        job.wait_ticks(6)
        assert_healthy(diagnose(job.state()))
        job.open_gate("last work", 1)
        assert_ended_well(job)


def test_work_on_rank_0_alone_within_the_deadline() -> None:
    with launch_ranks("rank0_work", 2, env=PATIENCE) as job:
        job.wait_step("barrier", {1})
        job.wait_state(lambda state: is_in_collective(state, 1))
        job.wait_ticks(3)
        assert_healthy(diagnose(job.state()))
        job.open_gate("checkpoint", 0)
        job.wait_step("done", {0, 1})
        assert_ended_well(job)


@pytest.mark.parametrize(("method", "children"), [("fork", 2), ("spawn", 4)])
def test_dataloader_workers_do_not_pose_as_ranks(method: str, children: int) -> None:
    """A worker a rank, and with `spawn` multiprocessing's tracker beside it."""
    with launch_ranks("data_workers", 2, args=(method,), env=PATIENCE) as job:
        job.wait_step("gate workers live", {0, 1})
        state = job.wait_state(lambda state: len(children_of_ranks(state)) >= children)
        ranks = [p for p in state.processes.values() if p.role == "rank"]
        assert sorted(p.pid for p in ranks) == sorted(job.pid_of(rank) for rank in (0, 1))
        for rank in (0, 1):
            job.open_gate("workers live", rank)
        assert_ended_well(job)


def children_of_ranks(state: RunState) -> set[int]:
    """Known children: seen as processes of their own, or listed by their parent's sample."""
    ranks = [p for p in state.processes.values() if p.role == "rank"]
    listed = {c for p in ranks if p.outside.sample for c in p.outside.sample.children}
    pids = {p.pid for p in ranks}
    return listed | {p.pid for p in state.processes.values() if p.ppid in pids}


@pytest.mark.parametrize(
    ("script", "printed"), [("one_process", "result 3"), ("no_torch", "result []")]
)
def test_scripts_that_are_no_distributed_job(script: str, printed: str) -> None:
    with single_process(script) as job:
        assert job.wait_ended() == [0]
        job.wait_observer_ended()
        assert job.output().splitlines()[1:] == [printed]
        if job.folder.starts():
            assert_healthy(job.judged_blocking())


def test_ranks_that_all_compute_for_longer_than_a_deadline() -> None:
    with launch_ranks("after_the_gate", 2) as job:
        job.wait_step("gate reduce", {0, 1})
        # As in a first step that compiles: nobody waits for anybody.
        job.wait_ticks(6)
        assert_healthy(diagnose(job.state()))
        for rank in (0, 1):
            job.open_gate("reduce", rank)
        assert_ended_well(job)


def test_a_rank_that_comes_late_but_within_the_deadline() -> None:
    with launch_ranks("after_the_gate", 3, env=PATIENCE) as job:
        job.wait_step("gate reduce", {0, 1, 2})
        job.open_gate("reduce", 0)
        job.open_gate("reduce", 2)
        job.wait_state(lambda state: is_in_collective(state, 0) and is_in_collective(state, 2))
        job.wait_ticks(7)
        assert_healthy(diagnose(job.state()))
        job.open_gate("reduce", 1)
        assert_ended_well(job)
