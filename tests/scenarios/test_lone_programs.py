"""Programs without ranks: they are in the run, with role and verdict, and pose as no rank."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from distwatch.diagnosis.facts.process_roles import role_text
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import Process, RunState
from tests.support.ranks import JOBS, RUN_ID, Job, empty_job, free_port
from tests.support.verdicts import assert_verdict

UNDER_RUN = [sys.executable, "-m", "distwatch", "run", "--run-id", RUN_ID, "--", sys.executable]
ALONE = [sys.executable]
"""With DISTWATCH=1 in the environment, and nothing else."""


def run(job: Job, script: str, command: list[str] = UNDER_RUN, **env: str) -> None:
    job.start([*command, str(JOBS / f"{script}.py")], env, "run.log")


def process_with(state: RunState, pid: int) -> Process | None:
    return next((p for p in state.processes.values() if p.pid == pid), None)


def is_watched(state: RunState, pid: int) -> bool:
    """Whether an observer has looked at it: then it sees its end, too."""
    process = process_with(state, pid)
    return process is not None and process.outside.sample is not None


@pytest.mark.parametrize("command", [UNDER_RUN, ALONE], ids=["run", "alone"])
def test_a_converter_whose_pool_has_lost_a_worker(command: list[str]) -> None:
    """multiprocessing replaces the worker, and waits for its result for ever."""
    with empty_job() as job:
        run(job, "converter", command)
        job.wait_step("converting", {0})
        worker = int((job.work / "worker").read_text())
        job.wait_state(lambda state: is_watched(state, worker))
        os.kill(worker, signal.SIGKILL)
        found = job.wait_verdict("process.worker_died", set(), mentions=("SIGKILL", "converter.py"))
        assert found.summary.startswith("the converter with pid")
        state = job.state()
        assert "rank" not in {p.role for p in state.processes.values()}
        ended = process_with(state, worker)
        assert ended is not None
        assert ended.outside.exit is not None
        assert ended.outside.exit.signal == signal.SIGKILL


def test_a_converter_whose_pool_hangs_is_told_with_the_place_of_its_worker() -> None:
    """With DISTWATCH=1 alone: nobody is killed, nothing moves."""
    with empty_job() as job:
        run(job, "converter", ALONE, DISTWATCH_DEADLINES="collective=6")
        job.wait_step("converting", {0})
        worker = int((job.work / "worker").read_text())
        codes = ("process.lock_wait", "process.data_stall", "process.io_blocked")
        found = job.wait_verdict(codes, set(), mentions=("converter.py", "a pool of processes"))
        assert found.summary.startswith("the converter with pid")
        assert f"its pool worker pid {worker} is at converter.py:" in found.summary
        assert "in convert" in found.summary
        state = job.state()
        roles = {p.pid: role_text(state, p) for p in state.processes.values()}
        assert roles[worker] == "pool worker"
        assert [role for role in roles.values() if role == "converter"] == ["converter"]


def test_a_getter_that_comes_first_is_named_with_what_to_call() -> None:
    with empty_job() as job:
        run(job, "getter_first")
        assert job.wait_ended() == [1]
        found = assert_verdict(diagnose(job.state()), code="group.not_initialized", culprits=set())
        assert "getter_first.py:5" in found.summary
        assert "distwatch.initialize(framework=" in found.advice
        assert "distwatch report" in job.output("run.log")


def test_torchrun_that_waits_for_another_node_before_any_rank_exists() -> None:
    with empty_job() as job:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
        script = str(JOBS / "healthy.py")
        known = [sys.executable, "-m", "distwatch", "run", "--run-id", RUN_ID, "--"]
        job.start([*known, *launcher, *rendezvous, script], {}, "run.log")
        found = job.wait_verdict(
            "rendezvous.node_missing", set(), mentions=("1 node of 2", "1 has joined")
        )
        assert found.waiting_ranks == ()
