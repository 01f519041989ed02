"""Ranks that others wait for, held up by something that has a name of its own."""

from __future__ import annotations

import os
import pty

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.ranks import launch_ranks, process_of
from tests.support.verdicts import assert_healthy


@pytest.mark.parametrize(
    ("way", "rank", "world", "code", "mentions"),
    [
        ("spin", 1, 2, "process.livelock", ("blocked_rank.py", "in spin", "of CPU")),
        ("poll", 0, 3, "process.livelock", ("poll_flag",)),
        ("lock", 1, 2, "process.lock_wait", ("take_lock_of_sleeping_thread", "cache writer")),
        ("event", 2, 3, "process.lock_wait", ("wait_for_event", "no other Python thread")),
        ("file_lock", 1, 2, "process.lock_wait", ("take_file_lock", "cache.lock")),
        ("loader", 1, 2, "process.data_stall", ("fetch_shard", "shard")),
        ("worker", 0, 2, "process.data_stall", ("data worker pid", "fetch_shard")),
        ("own_worker", 1, 2, "process.worker_died", ("SIGKILL", "read_from_own_worker")),
        ("gil", 1, 3, "process.gil_held", ("call_native_lock", "native frames", "pause")),
    ],
)
def test_a_rank_that_is_held_up(
    way: str, rank: int, world: int, code: str, mentions: tuple[str, ...]
) -> None:
    with launch_ranks("blocked_rank", world, args=(way, str(rank))) as job:
        job.wait_step("held up", {rank})
        job.wait_step("waiting", set(range(world)) - {rank})
        finding = job.wait_verdict(code, {rank}, mentions=mentions)
        assert set(finding.waiting_ranks) == set(range(world)) - {rank}

        def is_told_as_a_symptom(state: RunState) -> bool:
            found = [f for f in diagnose(state) if f.code == "collective.rank_missing"]
            return [(f.role, f.culprit_ranks) for f in found] == [("symptom", (rank,))]

        job.wait_state(is_told_as_a_symptom)


def test_a_loader_that_raises_since_its_worker_was_killed() -> None:
    with launch_ranks("blocked_rank", 2, args=("worker_killed", "1")) as job:
        job.wait_verdict("process.worker_died", {1}, mentions=("DataLoader worker", "iterate"))


def test_a_breakpoint_without_a_terminal_ends_the_rank() -> None:
    with launch_ranks("blocked_rank", 2, args=("breakpoint", "1")) as job:
        job.wait_verdict("process.debugger", {1}, mentions=("BdbQuit", "blocked_rank.py"))


def test_a_breakpoint_on_a_pipe_waits_for_ever() -> None:
    reading, writing = os.pipe()
    try:
        with launch_ranks(
            "blocked_rank", 2, args=("breakpoint", "1"), stdin_of={1: reading}
        ) as job:
            job.wait_verdict("process.debugger", {1}, mentions=("stdin (pipe", "blocked_rank.py"))
    finally:
        os.close(reading)
        os.close(writing)


def test_somebody_who_debugs_at_a_terminal_is_no_hang() -> None:
    mine, theirs = pty.openpty()
    try:
        with launch_ranks("blocked_rank", 2, args=("breakpoint", "1"), stdin_of={1: theirs}) as job:

            def is_told(state: RunState) -> bool:
                found = [(f.code, f.severity, f.culprit_ranks) for f in diagnose(state)]
                return found == [("process.debugger", "info", (1,))]

            def waits_for_long(state: RunState) -> bool:
                waiting = process_of(state, 0)
                pulse = waiting.outside.pulse if waiting else None
                since = max((g.changed_ns for g in pulse.groups), default=0) if pulse else 0
                now = max((host.now_ns for host in state.hosts.values()), default=0)
                return bool(since) and now - since > 6_000_000_000

            job.wait_step("held up", {1})
            job.wait_state(waits_for_long)
            job.wait_state(is_told)
            assert_healthy(job.judged_blocking())
    finally:
        os.close(mine)
        os.close(theirs)
