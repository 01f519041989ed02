"""A lock that one rank holds in a call which another enters only after it has had the lock."""

from __future__ import annotations

from distwatch.state import events as ev
from distwatch.state.finding import Finding
from tests.diagnosis.recorded import HOST, SECOND, WAITING, RecordedJob, frame, only_root

LOCK = "/job/cache.lock"
TAKES_IT = (frame("main", "/job/train.py", 9),)


def held_lock() -> RecordedJob:
    """Rank 0 holds it and is in barrier #2, rank 1 waits for it."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        calls = [job.operation(rank, "barrier", 1, at=4.0, left=4.1)]
        if rank == 0:
            calls.append(job.operation(0, "barrier", 2, at=5.0))
        enqueued = len(calls)
        job.pulse(rank, at=400.0, groups={"0": (enqueued, 1, 5.0)}, operations=tuple(calls))
        frames = WAITING if rank == 0 else TAKES_IT
        job.stack(rank, 400.0, frames, {"unchanged_since_ns": 10 * SECOND})
    job.sample(1, 400.0, "S", syscall="flock", blocked_on=LOCK)
    look(job, 400.0, ev.LockHolder(pid=job.state.processes[job.key(0)].pid, command=()))
    job.tick(401.0)
    return job


def look(job: RecordedJob, at: float, *holders: ev.LockHolder) -> None:
    job.see(at, ev.LockLooked(host=HOST, path=LOCK, holders=holders), HOST)


def verdict(job: RecordedJob) -> Finding:
    finding = only_root(job, "process.lock_wait", 0, 1)
    assert f"rank 1 waits for the lock {LOCK}, which rank 0 holds" in finding.summary
    return finding


def test_a_lock_and_a_collective_are_a_circle() -> None:
    assert "barrier #2" in verdict(held_lock()).summary


def test_it_is_the_same_once_the_job_was_ended_and_the_lock_is_free() -> None:
    job = held_lock()
    job.exit(0, 402.0, signal=15)
    look(job, 402.1)
    job.exit(1, 402.3, signal=15)
    job.tick(403.0)
    verdict(job)


def test_a_lock_that_was_free_long_before_the_end_is_not_said_to_be_held() -> None:
    job = held_lock()
    for at in (402.0, 404.0):
        look(job, at)
    for rank in (0, 1):
        job.exit(rank, 404.5, signal=15)
    job.tick(405.0)
    assert "which rank 0 holds" not in only_root(job, "process.lock_wait", 1).summary
