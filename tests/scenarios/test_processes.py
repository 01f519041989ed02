"""Ranks whose process ended, was stopped, or runs nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.finding import Finding
from tests.support.ranks import launch_ranks, single_process, torchrun
from tests.support.verdicts import assert_verdict


def codes_of(findings: Iterable[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def test_rank_that_raises_before_the_barrier() -> None:
    with torchrun("ends_early", 2, args=("raise",)) as job:
        job.wait_verdict(
            "process.exited",
            {1},
            mentions=("ValueError", "the loss is not finite", "ends_early.py", "compute_loss"),
        )
        assert job.wait_ended() == [1]


@pytest.mark.parametrize(
    ("way", "code", "mentions"),
    [
        ("raise", "process.exited", ("ValueError", "the sample is damaged", "in leave")),
        ("return", "process.exited", ("ended with exit code 0", "ranks 0,2")),
        ("handled", "process.exited", ("ended with exit code 0", "ranks 0,2")),
        ("kill", "process.killed", ("SIGKILL",)),
    ],
)
def test_rank_that_leaves_others_that_its_spawner_ends(
    way: str, code: str, mentions: tuple[str, ...]
) -> None:
    with single_process("spawned", args=(way,)) as job:
        job.wait_verdict(code, {1}, mentions=mentions)
        job.wait_observer_ended()
        assert_verdict(job.state().recorded_findings, code={code}, culprits={1}, mentions=mentions)


def test_rank_that_exits_in_silence_while_others_wait() -> None:
    with launch_ranks("ends_early", 3, args=("exit",)) as job:
        job.wait_verdict("process.exited", {1})


def test_rank_that_is_killed() -> None:
    with launch_ranks("ends_early", 2, args=("wait",)) as job:
        job.wait_step("gate fate", {1})
        job.wait_step("waiting", {0})
        job.kill(1)
        job.wait_verdict("process.killed", {1}, mentions=("SIGKILL",))


def test_rank_that_is_stopped() -> None:
    with launch_ranks("ends_early", 2, args=("wait",)) as job:
        job.wait_step("gate fate", {1})
        job.wait_step("waiting", {0})
        pid = job.pid_of(1)
        job.kill(1, signal.SIGSTOP)
        finding = job.wait_verdict("process.stopped", {1})
        assert f"kill -CONT {pid}" in finding.advice
        # Who ends the job meets the waiting rank; a stopped one does not get a SIGTERM before it goes on.
        job.kill(0, signal.SIGTERM)
        state = job.wait_state(lambda state: "process.killed" in codes_of(state.recorded_findings))
        for findings in (state.recorded_findings, diagnose(state)):
            assert_verdict(findings, code="process.stopped", culprits={1})


def test_native_code_that_holds_the_gil() -> None:
    with launch_ranks("gil_holder", 2) as job:
        job.wait_step("initialized", {0, 1})
        job.wait_verdict("process.gil_held", {1}, mentions=("gil_holder.py", "call_native_kernel"))
