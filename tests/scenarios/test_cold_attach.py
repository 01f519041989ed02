"""Jobs that never heard of distwatch, hanging: `attach --once` names the cause, and the exit code says so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.run_source import RunSource
from distwatch.state.finding import Finding
from tests.support.ranks import Job as RealJob
from tests.support.ranks import free_port, launch_ranks

KNOWN_WITHIN_S = 60.0


class Cold(NamedTuple):
    """A job without distwatch: its script and arguments, the step after which it hangs, and what is to be said."""

    script: str
    args: tuple[str, ...]
    hangs_after: tuple[str, int]
    says: tuple[str, ...]
    world: int = 2
    started: int = 2
    ended: tuple[int, ...] = ()
    """Ranks that are gone before anybody looks."""


CASES = {
    "a read": Cold("elsewhere", ("read", "1", "all_reduce"), ("stalled", 1), ("rank 1", "read_next_shard")),
    "a lock": Cold("elsewhere", ("lock", "1", "barrier"), ("stalled", 1), ("rank 1", "lock")),
    "a queue": Cold("elsewhere", ("queue", "1", "gather"), ("stalled", 1), ("rank 1", "queue")),
    "a loop": Cold("blocked_rank", ("spin", "1"), ("held up", 1), ("rank 1", "spin")),
    "a lock of a sleeping thread": Cold("blocked_rank", ("lock", "1"), ("held up", 1), ("rank 1", "lock")),
    "the GIL": Cold("blocked_rank", ("gil", "1"), ("held up", 1), ("rank 1", "GIL")),
    "other calls": Cold("different_operations", ("swapped",), ("initialized", 1), ("all_reduce", "broadcast")),
    "a group of one": Cold("new_group_on_one", (), ("initialized", 1), ("new_group",)),
    "a tag that differs": Cold("peers", ("other_tag",), ("ready", 1), ("to rank 1, tag 1", "from rank 0, tag 2")),
    "a rank that is gone": Cold("import_error", (), ("init", 0), ("rank 1", "ModuleNotFoundError"), ended=(1,)),
    "ranks that nobody started": Cold("init_only", (), ("init", 1), ("ranks 2-3", "never started"), world=4),
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
        for rank in cold.ended:
            job.launched[rank].wait(60)
        seen = attach(job, 0)
        said = headline(seen.stdout)
        assert seen.returncode == 3, seen.stdout + seen.stderr
        for words in cold.says:
            assert words in said, seen.stdout
        found = resolve(str(job.launched[0].pid), job.root).report()
        assert found.verdict.word in ("hang", "crash"), (
            "what it has written is found again by the pid"
        )


async def test_a_communicator_of_nccl_is_named_where_a_rank_answers_for_its_job() -> None:
    """The counts come from a double of NCCL's RAS that listens in rank 0: there is no NCCL here."""
    port = free_port()
    with launch_ranks(
        "answers_ras",
        2,
        without_distwatch=(0, 1),
        args=(str(port), "1"),
        env={"NCCL_RAS_ADDR": f"localhost:{port}"},
    ) as job:
        job.wait_step("stalled", {1})
        finding, _ = await with_groups(job)
        assert finding.culprit_ranks == (1,), finding
        assert "all_reduce #9001 of NCCL communicator" in finding.summary


async def test_a_watchdog_is_asked_for_its_dump(tmp_path: Path) -> None:
    """A double of torch's watchdog writes the real recorder's dump: gloo has no such thread."""
    with launch_ranks(
        "dumps_on_request",
        2,
        without_distwatch=(0, 1),
        env={
            "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(tmp_path / "ask_"),
            "TORCH_FR_DUMP_TEMP_FILE": str(tmp_path / "dump_"),
            "TORCH_FR_BUFFER_SIZE": "100",
        },
    ) as job:
        job.wait_step("stalled", {1})
        finding, seen = await with_groups(job)
        assert finding.culprit_ranks == (1,), finding
        (wait,) = seen.waits
        assert (wait.global_rank, wait.seq, wait.members) == (0, 4, (0, 1))


async def with_groups(job: RealJob) -> tuple[Finding, Job]:
    """The root as a viewer from outside comes to see it, and the job, once the ranks' groups are known."""
    source = resolve(str(job.launched[0].pid), job.root).source()
    await source.open()
    try:
        await asyncio.wait_for(until_groups_are_known(source), KNOWN_WITHIN_S)
        return diagnose(source.state)[0], largest_job(source.state)
    finally:
        await source.close()


async def until_groups_are_known(source: RunSource) -> None:
    """Those of all ranks, with a verdict: files and answers come one after the other."""
    while not all(
        process.groups for process in largest_job(source.state).ranks.values()
    ) or not any(finding.blocks for finding in diagnose(source.state)):
        await source.wait(0.25)
        await source.poll()
