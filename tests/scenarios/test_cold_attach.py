"""Jobs that never heard of distwatch, hanging: `attach --once` names the cause, and the exit code says so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.run_source import RunSource
from tests.support.ranks import REPOSITORY, free_port, launch_ranks
from tests.support.ranks import Job as RealJob

SECOND_ANSWER_WITHIN_S = 60.0


class Cold(NamedTuple):
    """A job without distwatch: its script and arguments, the step after which it hangs, and what is to be said."""

    script: str
    args: tuple[str, ...]
    hangs_after: tuple[str, int]
    says: tuple[str, ...]
    world: int = 2
    started: int = 2


CASES = {
    "a read": Cold("elsewhere", ("read", "1", "all_reduce"), ("stalled", 1), ("rank 1", "read_next_shard")),
    "a lock": Cold("elsewhere", ("lock", "1", "barrier"), ("stalled", 1), ("rank 1", "lock")),
    "a queue": Cold("elsewhere", ("queue", "1", "gather"), ("stalled", 1), ("rank 1", "queue")),
    "a loop": Cold("blocked_rank", ("spin", "1"), ("held up", 1), ("rank 1", "spin")),
    "a lock of a sleeping thread": Cold("blocked_rank", ("lock", "1"), ("held up", 1), ("rank 1", "lock")),
    "the GIL": Cold("blocked_rank", ("gil", "1"), ("held up", 1), ("rank 1", "GIL")),
    "other calls": Cold("different_operations", ("swapped",), ("initialized", 1), ("all_reduce", "broadcast")),
    "a group of one": Cold("new_group_on_one", (), ("initialized", 1), ("new_group",)),
    "recvs alone": Cold("peers", ("ring_of_recvs",), ("ready", 1), ("recv",)),
    "ranks that nobody started": Cold("init_only", (), ("", 0), ("ranks 2-3", "never started"), world=4),
}  # fmt: skip


def attach(job: RealJob, rank: int) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "distwatch.cli",
        "attach",
        "--once",
        str(job.launched[rank].pid),
    ]
    env = {**os.environ, "DISTWATCH_DIR": job.root, "COLUMNS": "200"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)


def headline(screen: str, lines: int = 2) -> str:
    return " ".join(screen.splitlines()[:lines])


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_named(name: str) -> None:
    cold = CASES[name]
    everyone: Sequence[int] = range(cold.started)
    with launch_ranks(
        cold.script, cold.world, ranks=everyone, without_distwatch=everyone, args=cold.args
    ) as job:
        step, rank = cold.hangs_after
        if step:
            job.wait_step(step, {rank})
        seen = attach(job, 0)
        said = headline(seen.stdout)
        assert seen.returncode == 3, seen.stdout + seen.stderr
        for words in cold.says:
            assert words in said, seen.stdout


async def test_a_communicator_of_nccl_is_named_where_a_rank_answers_for_its_job() -> None:
    """The counts come from a double of NCCL's RAS that listens in rank 0: there is no NCCL here."""
    port = free_port()
    with launch_ranks(
        "answers_ras",
        2,
        without_distwatch=(0, 1),
        args=(str(port), "1"),
        env={"NCCL_RAS_ADDR": f"localhost:{port}", "PYTHONPATH": str(REPOSITORY)},
    ) as job:
        job.wait_step("stalled", {1})
        source = resolve(str(job.launched[0].pid), job.root).source()
        await source.open()
        try:
            await asyncio.wait_for(until_counted(source), SECOND_ANSWER_WITHIN_S)
            (finding, *_) = diagnose(source.state)
            assert finding.culprit_ranks == (1,), finding
            assert "all_reduce #9001 of NCCL communicator" in finding.summary
        finally:
            await source.close()


async def until_counted(source: RunSource) -> None:
    """Two answers have shown the same counts, so that the rank that waits has a group."""
    while not any(process.groups for process in Job(source.state).ranks.values()):
        await source.wait(0.25)
        await source.poll()
