"""Calls that C++ makes on a torch whose recorder does not see them, as gloo's before 2.8: only stacks tell of them."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.test_controls import assert_ended_well
from tests.support.call_paths import without_recorder
from tests.support.ranks import launch_ranks, torchrun


def test_a_rank_that_does_not_come_to_a_call_of_dtensor(tmp_path: Path) -> None:
    env = without_recorder(tmp_path)
    with launch_ranks("sequences", 3, args=("dtensor", "2"), env=env) as job:
        job.wait_step("go", {0, 1, 2})
        job.wait_verdict(
            "collective.rank_missing",
            {2},
            mentions=("wait_for_evaluation", "no calls of gloo"),
            timeout_s=120,
        )
    assert tmp_path.joinpath("used").exists()


def test_the_ranks_of_ddp_that_wait_are_not_missing_from_the_barrier(tmp_path: Path) -> None:
    with launch_ranks("uneven_batches", 3, env=without_recorder(tmp_path)) as job:
        job.wait_step("barrier", {0, 2})
        job.wait_verdict(
            "collective.op_mismatch", {1}, mentions=("barrier", "backward"), timeout_s=120
        )


def test_a_sound_job_hears_of_no_hang(tmp_path: Path) -> None:
    with torchrun("healthy", 2, env=without_recorder(tmp_path)) as job:
        job.wait_step("done", {0, 1})
        assert_ended_well(job)
