"""Dumps that ranks left in files, as evidence on a running job: of whom, and for how long they count."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder import RecorderDump
from distwatch.dumps.recorder_files import events_of_dumps
from distwatch.dumps.watchdog_lines import WrittenLog, events_of_watchdog
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


def watchdog_says(rank: int, prefix: str = "") -> str:
    """As torch 2.6 writes it, in the time zone of its host."""
    at = f"{prefix}[E909 19:05:46.99664 ProcessGroupNCCL.cpp:607]"
    return (
        f"{at} [Rank {rank}] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=55, OpType=ALLREDUCE, "
        "NumelIn=4, NumelOut=4, Timeout(ms)=600000) ran for 600021 milliseconds before timing out.\n"
        f"{at} [PG 0 (default_pg) Rank {rank}] Timeout at NCCL work: 55, last enqueued NCCL work: 57, "
        "last completed NCCL work: 54.\n"
    )


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_watchdog_that_only_writes_lines_is_believed(is_shared: bool) -> None:
    job = RecordedJob(3)
    sight(job)
    texts = {rank: watchdog_says(rank, f"[rank{rank}]:" if is_shared else "") for rank in (0, 2)}
    if is_shared:
        texts = {-1: "".join(texts.values())}
    logs = [
        WrittenLog(
            path=f"/job/{rank}.log",
            rank=None if is_shared else rank,
            written_wall_ns=700 * SECOND,
            content=text.encode(),
        )
        for rank, text in texts.items()
    ]
    for event in events_of_watchdog(logs, {rank: job.key(rank) for rank in range(3)}, 0):
        job.see(701.0, event)
    host(job, 701.0)
    finding = judged(job)[0]
    assert (finding.code, finding.culprit_ranks) == ("collective.rank_missing", (1,))
    assert set(finding.waiting_ranks) == {0, 2}
    assert "#55 of default_pg" in finding.summary


def test_a_log_in_which_no_watchdog_speaks_says_nothing() -> None:
    log = WrittenLog(path="/job/0.log", rank=0, written_wall_ns=SECOND, content=b"step 1\nstep 2\n")
    assert events_of_watchdog([log], {0: "a"}, 0) == []
