"""Programs without ranks under `distwatch run`: they are in the run, with a verdict, and pose as no rank."""

from __future__ import annotations

import os
import signal
import sys

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import Process, RunState
from tests.support.ranks import JOBS, RUN_ID, Job, empty_job, free_port
from tests.support.verdicts import assert_verdict


def run(job: Job, script: str) -> None:
    command = [sys.executable, "-m", "distwatch", "run", "--run-id", RUN_ID, "--", sys.executable]
    job.start([*command, str(JOBS / f"{script}.py")], {}, "run.log")


def process_with(state: RunState, pid: int) -> Process | None:
    return next((p for p in state.processes.values() if p.pid == pid), None)


def test_a_converter_whose_pool_has_lost_a_worker() -> None:
    """multiprocessing replaces the worker, and waits for its result for ever."""
    with empty_job() as job:
        run(job, "converter")
        job.wait_step("converting", {0})
        worker = int((job.work / "worker").read_text())
        job.wait_state(lambda state: process_with(state, worker) is not None)
        os.kill(worker, signal.SIGKILL)
        found = job.wait_verdict("process.worker_died", set(), mentions=("SIGKILL", "converter.py"))
        assert found.summary.startswith("the program with pid")
        roles = {p.role for p in job.state().processes.values()}
        assert "rank" not in roles


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
