"""Exceptions that nothing has shown, limits that were reached, and processes that do not end."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.state.flow import Flow
from distwatch.state.limits import limit_in
from tests.diagnosis.recorded import (
    HOST,
    SECOND,
    WAITING,
    RecordedJob,
    frame,
    hung_job,
    judged,
    only_root,
    root,
)
from tests.diagnosis.test_mechanisms import worker

LIB = "/venv/lib/python3.11"
RAISED = ev.Site(file="/job/train.py", line=20, function="compute")
HELD = ev.ExceptionHeld(
    type_name="ValueError", message="loss is not finite", site=RAISED, since_ns=15 * SECOND
)
SLEEPING = (frame("main", "/job/train.py", 9),)
QUEUE = (*SLEEPING, frame("get", f"{LIB}/queue.py", 171))


def parted_job() -> RecordedJob:
    """Rank 1 is in a barrier at #2, rank 0 in an all_reduce."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank, op in ((0, "allreduce"), (1, "barrier")):
        operations = (
            job.operation(rank, "allreduce", 1, at=5.0, left=5.1),
            job.operation(rank, op, 2, at=16.0, numel=64 if rank == 0 else -1),
        )
        job.pulse(rank, at=30.0, groups={"0": (2, 1, 16.0)}, operations=operations)
        job.stack(rank, 30.0, WAITING)
    job.tick(30.0)
    return job


def test_a_barrier_in_finally_is_explained_by_the_exception_before_it() -> None:
    job = parted_job()
    job.say(1, 16.5, HELD)
    finding = only_root(job, "process.exception_pending", 1)
    assert finding.waiting_ranks == (0,)
    assert "ValueError: loss is not finite" in finding.summary
    assert "train.py:20 in compute" in finding.summary
    blamed = [f.culprit_ranks for f in judged(job) if f.role == "root"]
    assert blamed == [(1,)]


def test_one_that_passed_explains_nothing() -> None:
    job = parted_job()
    job.say(1, 16.5, HELD)
    job.say(1, 17.0, ev.ExceptionPassed())
    assert root(judged(job)).code == "collective.op_mismatch"


def test_a_program_that_runs_in_a_handler_from_its_beginning_is_not_blamed() -> None:
    job = parted_job()
    early = ev.ExceptionHeld(type_name="ImportError", site=RAISED, since_ns=2 * SECOND)
    job.say(1, 2.0, early)
    assert root(judged(job)).code == "collective.op_mismatch"
    both = parted_job()
    for rank in (0, 1):
        both.say(rank, 16.5, HELD)
    assert root(judged(both)).code == "collective.op_mismatch"


def test_an_exception_that_is_caught_again_and_again() -> None:
    job = hung_job()
    job.stack(2, 30.1, SLEEPING)
    job.sample(2, 30.1, "S", syscall="clock_nanosleep")
    caught = ev.Site(file="/job/train.py", line=8, function="main")
    memory = ev.ExceptionHeld(type_name="MemoryError", site=RAISED, caught_at=caught, times=8)
    job.say(2, 30.2, memory)
    finding = only_root(job, "process.exception_pending", 2)
    assert "8 times" in finding.summary
    assert "the `try` at train.py:8" in finding.summary


def test_an_import_asks_caches_that_raise() -> None:
    job = hung_job()
    site = ev.Site(
        file="<frozen importlib._bootstrap_external>", line=1437, function="_path_importer_cache"
    )
    job.say(2, 30.2, ev.ExceptionHeld(type_name="KeyError", site=site, caught_at=site, times=2))
    only_root(job, "collective.rank_missing", 2)


def test_a_rank_that_only_waits_may_hold_an_exception() -> None:
    job = hung_job()
    job.stack(2, 30.1, SLEEPING)
    job.say(1, 25.0, HELD)
    assert root(judged(job)).culprit_ranks == (2,)


@pytest.mark.parametrize(
    ("frames", "syscall", "code"),
    [
        (QUEUE, "futex", "process.thread_died"),
        ((*SLEEPING, frame("wait", f"{LIB}/threading.py", 320)), "futex", "process.thread_died"),
        (SLEEPING, "clock_nanosleep", "process.thread_died"),
        (SLEEPING, "flock", "process.lock_wait"),
    ],
)
def test_a_thread_that_the_main_thread_waits_for(
    frames: tuple[ev.Frame, ...], syscall: str, code: str
) -> None:
    job = hung_job()
    job.stack(2, 30.1, frames)
    job.sample(2, 30.1, "S", syscall=syscall)
    job.say(2, 20.0, ev.ThreadDied(thread="prefetch", type_name="KeyError", message="'label'"))
    finding = only_root(job, code, 2)
    assert ("prefetch has ended with KeyError: 'label'" in finding.summary) is (
        code == "process.thread_died"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("OSError: [Errno 24] Too many open files: '/dev/null'", "open files"),
        ("RuntimeError: [enforce fail at loop.cc:48] rv != -1. pipe: Too many open files", "open files"),
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("OSError: [Errno 122] Disk quota exceeded: '/home/a'", "disk quota"),
        ("RuntimeError: unable to write to file </torch_7_1_0>: No space left on device (28)", "/dev/shm"),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/x'", "/dev/shm"),
        ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
         "workers are out of shared memory.", "/dev/shm"),
        ("RuntimeError: can't start new thread", "processes and threads"),
        ("OSError: [Errno 12] Cannot allocate memory", "memory"),
        ("MemoryError: ", "memory"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes", "memory"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", ""),
        ("ValueError: there are too many files to open", ""),
    ],
)  # fmt: skip
def test_the_limit_that_an_error_is_about(text: str, what: str) -> None:
    assert limit_in(text) == what


def test_a_limit_is_the_root_of_the_end_that_it_caused() -> None:
    job = hung_job()
    job.say(2, 20.0, ev.LimitReached(what="open files", used=256, limit=256))
    job.fail(2, 20.0, "OSError", "[Errno 24] Too many open files")
    job.exit(2, 20.5, code=1)
    finding = only_root(job, "process.limit_reached", 2)
    assert "open files (256 of 256)" in finding.summary
    assert set(finding.waiting_ranks) == {0, 1, 3}
    ends = [f for f in judged(job) if f.code == "process.exited"]
    assert [(f.role, f.culprit_ranks) for f in ends] == [("symptom", ())]


def test_a_full_disk_that_a_rank_waits_out() -> None:
    job = hung_job()
    job.stack(2, 30.1, SLEEPING)
    job.say(
        2, 30.2, ev.ExceptionHeld(type_name="OSError", message="[Errno 28] No space left on device", times=4)
    )  # fmt: skip
    assert only_root(job, "process.limit_reached", 2).severity == "hang"


def ended_job(at: float = 20.0) -> RecordedJob:
    """Rank 0 has ended; rank 1's main thread has ended too, and its process has not."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.launch()
    for rank in (0, 1):
        job.pulse(rank, at=at, groups={"0": (3, 3, 10.0)})
    job.say(0, at, ev.ProcessEnding())
    job.exit(0, at + 0.5, code=0)
    job.say(1, at, ev.MainEnded(threads=("uploader",)))
    return job


def test_a_thread_keeps_a_process_whose_main_thread_has_ended() -> None:
    job = ended_job()
    main = ev.ThreadStack(
        name="MainThread", frames=(frame("_shutdown", f"{LIB}/threading.py", 1500),)
    )
    kept = ev.ThreadStack(name="uploader", frames=(frame("upload", "/job/logs.py", 7),))
    job.see(31.0, ev.StackTaken(process=job.key(1), threads=(main, kept)))
    job.tick(31.0)
    finding = only_root(job, "process.exit_stalled", 1)
    assert "thread uploader is not a daemon" in finding.summary
    assert "logs.py:7 in upload" in finding.summary
    assert "its launcher, pid 999, waits for it" in finding.summary


def test_an_exit_handler_keeps_it() -> None:
    job = ended_job()
    frames = (frame("flush", "/job/tracker.py", 30), frame("wait", f"{LIB}/threading.py", 320))
    job.stack(1, 31.0, frames)
    job.tick(31.0)
    finding = only_root(job, "process.exit_stalled", 1)
    assert "an exit handler, at tracker.py:30 in flush" in finding.summary


@pytest.mark.parametrize(
    ("frames", "severity"),
    [((), "warning"), ((frame("flush", "/job/tracker.py", 30),), "hang")],
    ids=["Python takes its modules down", "an exit handler spins"],
)
def test_who_shuts_down_busily_is_slow(frames: tuple[ev.Frame, ...], severity: str) -> None:
    job = ended_job()
    job.stack(1, 31.0, frames)
    job.sample(1, 31.0, "R", flow=Flow(cpu_s=6.0, over_s=8.0))
    job.tick(31.0)
    assert {(f.severity, f.culprit_ranks) for f in judged(job)} == {(severity, (1,))}


def test_who_ends_slowly_is_not_stuck() -> None:
    job = ended_job()
    job.tick(24.0)
    assert not judged(job)
    job.exit(1, 29.0, code=0)
    job.tick(60.0)
    assert not judged(job)


@pytest.mark.parametrize(("left", "code"), [(0, "process.limit_reached"), (900, "")])
@pytest.mark.parametrize("role", ["rank", "dataloader"])
def test_a_bus_error_while_shared_memory_was_full(role: str, left: int, code: str) -> None:
    job = hung_job()
    shm = ev.SharedMemorySampled(host=HOST, total=1000, free=950, least_free=left)
    job.see(29.0, shm)
    if role == "rank":
        job.exit(2, 28.0, signal=7)
    else:
        worker(job, 2, 71, signal=7)
        job.stack(2, 30.1, QUEUE)
    finding = root(judged(job))
    assert finding.culprit_ranks == (2,)
    usual = "process.killed" if role == "rank" else "process.worker_died"
    assert finding.code == (code or usual)
    if code:
        assert "SIGBUS" in finding.summary
        assert "0 B of 1000 B of /dev/shm were free" in finding.summary
