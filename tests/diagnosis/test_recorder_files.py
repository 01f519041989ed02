"""Dumps that ranks left in files, as evidence on a running job: of whom, and for how long they count."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder import RecorderDump
from distwatch.dumps.recorder_files import events_of_dumps
from distwatch.state import events as ev
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import HOST, SECOND, RecordedJob, judged, only_root
from tests.dumps.test_import import entry, nccl_dump

TIMEOUT_MS = 600_000


def host(job: RecordedJob, at: float) -> None:
    job.see(at, ev.Ticked(host=HOST))


def left(job: RecordedJob, at: float, calls: dict[int, list[tuple[float, bool]]]) -> None:
    """What each rank's file holds: when each of its calls was made, and whether it is over."""
    dumps = []
    for rank, made in calls.items():
        entries = [
            entry(
                number,
                time_created_ns=int(when * SECOND),
                state="completed" if over else "scheduled",
                retired=over,
                timeout_ms=TIMEOUT_MS,
            )
            for number, (when, over) in enumerate(made, 1)
        ]
        plain: dict[str, Any] = nccl_dump(entries)
        recorder = msgspec.convert(plain, RecorderDump, strict=False)
        dumps.append(RankDump(global_rank=rank, taken_ns=int(at * SECOND), recorder=recorder))
    keys = {rank: job.key(rank) for rank in calls}
    paths = {rank: f"/tmp/trace_{rank}" for rank in calls}
    for event in events_of_dumps(dumps, paths, keys, wall_offset=0):
        job.see(at, event)


def sight(job: RecordedJob) -> None:
    """Three ranks without distwatch."""
    for rank in range(3):
        identity = Identity(global_rank=rank, world_size=3, local_world_size=3)
        seen = ev.ProcessSighted(
            process=job.key(rank), host=HOST, pid=1000 + rank, start_ticks=5, ppid=999, role="rank",
            identity=identity,
        )  # fmt: skip
        job.see(0.0, seen)


HUNG = {
    0: [(1.0, True), (2.0, False)],
    1: [(1.0, True)],
    2: [(1.0, True), (2.0, False)],
}


def test_a_job_without_an_agent_is_judged_by_its_files() -> None:
    job = RecordedJob(3)
    sight(job)
    left(job, 20.0, HUNG)
    host(job, 20.0)
    finding = only_root(job, "collective.rank_missing", 1)
    assert "all_reduce #2 of default_pg" in finding.summary
    assert "18 s" in finding.summary


def test_a_wait_is_as_long_as_it_was_when_the_file_was_written() -> None:
    job = RecordedJob(3)
    sight(job)
    left(job, 3.0, HUNG)
    host(job, 60.0)
    assert judged(job) == []


@pytest.mark.parametrize(("at", "counts"), [(100.0, False), (700.0, True)])
def test_an_old_file_counts_where_a_call_had_run_into_its_timeout(at: float, counts: bool) -> None:
    job = RecordedJob(3)
    sight(job)
    left(job, at, HUNG)
    host(job, at + 900.0)
    assert bool(judged(job)) == counts


def test_of_ranks_that_have_ended_the_files_stay() -> None:
    job = RecordedJob(3)
    sight(job)
    left(job, 700.0, HUNG)
    for rank in range(3):
        job.exit(rank, 701.0, signal=6 if rank != 1 else 15)
    host(job, 5000.0)
    first = judged(job)[0]
    assert (first.code, first.culprit_ranks) == ("collective.rank_missing", (1,))


def test_an_agent_that_says_more_and_later_is_believed() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    left(job, 20.0, HUNG)
    for rank in range(3):
        job.pulse(rank, at=30.0, groups={"0": (9, 9, 29.9)})
    job.tick(30.0)
    assert judged(job) == []
