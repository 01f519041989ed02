"""Held-up ranks, uneven loops, timeouts that differ, partitions, debuggers: each by its evidence."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.activity import activity_of, is_in_debugger
from distwatch.diagnosis.verdict.diagnose import cases_of
from distwatch.diagnosis.verdict.early_warning import early_suspicion
from distwatch.state import events as ev
from distwatch.state.frames import process_key
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import (
    HOST,
    SECOND,
    WAITING,
    RecordedJob,
    frame,
    hung_job,
    judged,
    only_root,
)

LIB = "/venv/lib/python3.11"
LOADER = (
    frame("main", "/job/train.py", 9),
    frame("_try_get_data", f"{LIB}/site-packages/torch/utils/data/dataloader.py", 1100),
    frame("wait", f"{LIB}/threading.py", 320),
)


def at(function: str, file: str) -> tuple[ev.Frame, ...]:
    return (frame("main", "/job/train.py", 9), frame(function, f"{LIB}/{file}", 5))


@pytest.mark.parametrize(
    ("frames", "sample", "code"),
    [
        (at("Condition.wait", "threading.py"), {"syscall": "futex"}, "process.lock_wait"),
        (at("acquire", "site-packages/filelock/_api.py"), {}, "process.lock_wait"),
        ((frame("main", "/job/train.py", 9),), {"syscall": "flock", "blocked_on": "/tmp/l"}, "process.lock_wait"),
        (LOADER, {"syscall": "futex"}, "process.data_stall"),
        ((frame("main", "/job/train.py", 9),), {"syscall": "read", "blocked_on": "/data/x"}, "process.data_stall"),
        (at("interaction", "pdb.py"), {"syscall": "read", "blocked_on": "stdin (pipe:[7])"}, "process.debugger"),
        (at("main", "train.py"), {"syscall": "read", "blocked_on": "stdin (/dev/pts/3)"}, "process.stdin_wait"),
    ],
)  # fmt: skip
def test_why_the_missing_rank_does_not_come(
    frames: tuple[ev.Frame, ...], sample: dict[str, str], code: str
) -> None:
    job = hung_job()
    job.stack(2, 30.1, frames)
    job.sample(2, 30.1, "S", **sample)
    finding = only_root(job, code, 2)
    assert finding.waiting_ranks == (0, 1, 3)
    assert [f.code for f in judged(job) if f.role == "symptom"] == ["collective.rank_missing"]


@pytest.mark.parametrize(
    ("frames", "sample"),
    [
        (at("get", "queue.py"), {"syscall": "futex"}),
        (at("Popen.communicate", "subprocess.py"), {"syscall": "read", "blocked_on": "pipe:[3]"}),
        ((frame("main", "/job/train.py", 9),), {"syscall": "clock_nanosleep"}),
        (at("_compile", "site-packages/torch/_inductor/codecache.py"), {"syscall": ""}),
    ],
)
def test_what_has_no_code_of_its_own_stays_a_missing_rank(
    frames: tuple[ev.Frame, ...], sample: dict[str, str]
) -> None:
    job = hung_job()
    job.stack(2, 30.1, frames)
    job.sample(2, 30.1, "S", **sample)
    only_root(job, "collective.rank_missing", 2)


@pytest.mark.parametrize(
    ("cpu_s", "code"), [(9.0, "process.livelock"), (0.5, "collective.rank_missing")]
)
def test_a_rank_that_runs_at_one_place_is_a_livelock_only_where_it_really_runs(
    cpu_s: float, code: str
) -> None:
    job = hung_job()
    looked: dict[str, object] = {"settled_since_ns": 20 * SECOND, "settled_cpu_s": cpu_s}
    job.stack(2, 30.1, (frame("spin", "/job/train.py", 9),), looked)
    job.sample(2, 30.1, "R")
    only_root(job, code, 2)


def test_a_collective_inside_a_loader_waits_for_others() -> None:
    job = hung_job(4, culprit=2)
    job.hold(2, "1", (2, 3), desc="pair")
    job.hold(3, "1", (2, 3), desc="pair")
    done = job.operation(2, "allreduce", 4, at=9, left=9.5)
    inside = job.operation(2, "allreduce", 1, at=10, pg_name="1", number=9)
    job.pulse(2, at=30.2, groups={"0": (4, 4, 9.5), "1": (1, 0, 10.0)}, operations=(done, inside))
    job.stack(2, 30.2, (*LOADER[:2], WAITING[-1]))
    job.sample(2, 30.2, "S", syscall="futex")
    job.stack(3, 30.2, (frame("evaluate", "/job/eval.py", 3),))
    findings = judged(job)
    assert "process.data_stall" not in {finding.code for finding in findings}
    # 2 waits for 3 in one group and 3 for 2 in the other: their order is crossed.
    assert (findings[0].code, findings[0].culprit_ranks) == ("collective.cycle", (2, 3))


COMPILED = (
    frame("main", "/job/train.py", 9),
    frame("compile_wrapper", f"{LIB}/site-packages/torch/_dynamo/eval_frame.py", 700),
    frame("call", "/tmp/torchinductor_root/ab/cabc.py", 40),
)
DEBUGPY = "/home/me/.vscode/extensions/ms-python.debugpy-2026/bundled/libs/debugpy"


def test_compiled_code_that_runs_is_not_compilation() -> None:
    job = hung_job()
    job.stack(0, 30.1, COMPILED)
    job.sample(0, 30.1, "S", syscall="futex")
    # Rank 0 still waits for rank 2 in the collective that its compiled code has called.
    assert only_root(job, "collective.rank_missing", 2).waiting_ranks == (0, 1, 3)
    assert activity_of(job.state, job.state.processes[job.key(0)]) is None


@pytest.mark.parametrize(
    ("inner", "stands"),
    [
        ((), False),
        ((frame("do_wait_suspend", f"{DEBUGPY}/_vendored/pydevd/pydevd.py", 9),), True),
        ((frame("cmdloop", f"{LIB}/cmd.py", 9),), False),
        ((frame("interaction", f"{LIB}/pdb.py", 3), frame("cmdloop", f"{LIB}/cmd.py", 9)), True),
    ],
)
def test_a_debugger_that_only_runs_the_script_is_not_where_it_stands(
    inner: tuple[ev.Frame, ...], stands: bool
) -> None:
    runner = frame("_exec", f"{DEBUGPY}/_vendored/pydevd/pydevd.py", 1)
    frames = (runner, frame("main", "/job/train.py", 9), *inner)
    assert is_in_debugger(frames) is stands


def test_a_server_whose_worker_thread_is_in_the_collective_waits_in_it() -> None:
    job = hung_job()
    loop = (
        frame("main", "/job/serve.py", 9),
        frame("run_forever", f"{LIB}/asyncio/base_events.py", 6),
    )
    threads = (
        ev.ThreadStack(name="MainThread", os_thread_id=1000, frames=loop),
        ev.ThreadStack(name="scheduler", os_thread_id=77, frames=WAITING),
    )
    job.see(30.1, ev.StackTaken(process=job.key(0), threads=threads))
    assert only_root(job, "collective.rank_missing", 2).waiting_ranks == (0, 1, 3)
    job.hold(0, "1", (0, 1), desc="pair")
    job.hold(1, "1", (0, 1), desc="pair")
    inside = job.operation(1, "allreduce", 1, at=9, pg_name="1", number=9)
    job.pulse(1, at=30.3, groups={"0": (4, 4, 8.0), "1": (1, 0, 9.0)}, operations=(inside,))
    # Rank 1 waits for rank 0, which is not at something of its own: it waits for 1 and 2.
    assert only_root(job, "collective.rank_missing", 2).waiting_ranks == (0, 3)


def test_an_attended_debugger_is_told_and_no_hang() -> None:
    job = hung_job()
    job.stack(2, 30.1, at("interaction", "pdb.py"))
    job.sample(2, 30.1, "S", syscall="read", blocked_on="stdin (/dev/pts/3)")
    assert [(f.code, f.severity) for f in judged(job)] == [("process.debugger", "info")]


def worker(job: RecordedJob, rank: int, pid: int, role: str = "dataloader", **end: object) -> None:
    key = process_key(HOST, pid, 9)
    sighted = ev.ProcessSighted(
        process=key, host=HOST, pid=pid, start_ticks=9, ppid=1000 + rank, role=role,
        identity=Identity(),
    )  # fmt: skip
    job.see(5, sighted)
    if end:
        job.see(9, ev.ExitSeen(process=key, how="pidfd", **end))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"signal": 9}, "process.worker_died"),
        ({"exit_code": 1}, "process.worker_died"),
        ({"exit_code": 0}, "process.data_stall"),
        ({"signal": 15}, "process.data_stall"),
        ({}, "process.data_stall"),
    ],
)
def test_a_worker_that_died_explains_the_loader_that_waits_for_it(
    end: dict[str, object], code: str
) -> None:
    job = hung_job()
    worker(job, 2, 5000, **end)
    job.stack(2, 30.1, LOADER)
    job.sample(2, 30.1, "S", syscall="poll", blocked_on="pipe:[9]")
    only_root(job, code, 2)


def test_a_program_that_failed_before_is_not_what_a_queue_waits_for() -> None:
    job = hung_job()
    worker(job, 2, 5000, role="child", exit_code=127)
    job.stack(2, 30.1, at("Queue.get", "queue.py"))
    job.sample(2, 30.1, "S", syscall="futex")
    only_root(job, "collective.rank_missing", 2)


def loop(job: RecordedJob, rank: int, rounds: int, then: str | None) -> None:
    """`rounds` calls of the loop at site 1, and one of something else at site 2."""
    job.say(
        rank, 2, ev.SiteSeen(number=1, site=ev.Site(file="/job/train.py", line=30, function="step"))
    )
    job.say(
        rank, 2, ev.SiteSeen(number=2, site=ev.Site(file="/job/train.py", line=60, function="end"))
    )
    calls = [
        job.operation(rank, "allreduce", n, at=9 + n * 0.01, left=9 + n * 0.01, site=1)
        for n in range(1, rounds + 1)
    ]
    if then is not None:
        calls.append(job.operation(rank, then, rounds + 1, at=10, site=2, numel=-1))
    last = len(calls)
    job.pulse(rank, at=30, groups={"0": (last, last - 1, 10.0)}, operations=tuple(calls))
    job.stack(rank, 30, WAITING)
    job.sample(rank, 30, "S")


def test_one_iteration_more_is_counted_by_call_site() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    loop(job, 0, 3, "barrier")
    loop(job, 1, 4, None)
    loop(job, 2, 3, "barrier")
    job.tick(31)
    finding = only_root(job, "collective.count_uneven", 1)
    assert "train.py:30 in step 4 times" in finding.summary
    assert "only 3 times" in finding.summary


def test_one_call_alone_is_no_loop() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    loop(job, 0, 1, "barrier")
    loop(job, 1, 2, None)
    loop(job, 2, 1, "barrier")
    job.tick(31)
    only_root(job, "collective.op_mismatch", 1)


def test_timeouts_that_differ_are_a_warning() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    for rank in range(3):
        job.hold(rank, "1", (0, 1, 2), desc="eval", timeout_s=6.0 if rank == 1 else 600.0)
    job.tick(3)
    findings = judged(job)
    assert [(f.code, f.severity, f.culprit_ranks) for f in findings] == [
        ("collective.timeout_disagrees", "warning", (1,))
    ]


def test_stuck_connections_between_hosts_are_a_partition() -> None:
    job = RecordedJob(4)
    for rank in (2, 3):
        job.hosts[rank] = "node2"
    job.initialize(0, 1, 2, 3)
    for rank in range(4):
        inside = job.operation(rank, "allreduce", 1, at=10)
        job.pulse(rank, at=30, groups={"0": (1, 0, 10.0)}, operations=(inside,))
        job.stack(rank, 30, WAITING)
        job.sample(rank, 30, "S")
        own, other = ("10.0.0.1", "10.0.0.2") if rank < 2 else ("10.0.0.2", "10.0.0.1")
        stuck = ev.Connection(
            local=f"{own}:4000", peer=f"{other}:5000", state="established",
            unacknowledged_bytes=64, retransmits=6,
        )  # fmt: skip
        seen = ev.ConnectionsSeen(process=job.key(rank), addresses=(own,), stuck=(stuck,))
        job.see(30, seen, job.host(rank))
    job.tick(31)
    finding = only_root(job, "network.partition")
    assert finding.waiting_ranks == (0, 1, 2, 3)
    assert (
        "10.0.0.1 (ranks 0-1) and 10.0.0.2 (ranks 2-3) no longer reach each other"
        in finding.summary
    )


def test_a_collective_that_all_have_entered_blames_nobody() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in range(2):
        inside = job.operation(rank, "allreduce", 1, at=10)
        job.pulse(rank, at=30, groups={"0": (1, 0, 10.0)}, operations=(inside,))
        job.stack(rank, 30, WAITING)
        job.sample(rank, 30, "S")
    job.tick(31)
    finding = only_root(job, "collective.device_behind")
    assert finding.confidence < 0.5


def test_an_error_file_tells_the_exception_of_a_rank_without_distwatch() -> None:
    job = RecordedJob(2)
    job.initialize(0)
    job.sight(1, 1)
    left = ev.ErrorFileRead(
        process=job.key(1), type_name="ValueError", message="bad batch", traceback=("x",)
    )
    job.exit(1, 12, code=1)
    job.see(12, left)
    job.tick(20)
    finding = only_root(job, "process.exited", 1)
    assert "ValueError" in finding.summary
    assert "bad batch" in finding.summary


def test_the_source_of_a_call_is_shown_with_it() -> None:
    job = hung_job()
    job.see(
        30,
        ev.SourcesRead(
            host=HOST, lines=(ev.SourceLine(file="/job/data.py", line=42, text="f.read(n)"),)
        ),
    )
    assert any("`f.read(n)`" in e.text for f in judged(job) for e in f.evidence)


def test_a_suspicion_names_the_rank_before_any_deadline() -> None:
    job = hung_job(waited=7.0)
    assert judged(job) == []
    suspected = early_suspicion(cases_of(job.state))
    assert suspected is not None
    assert suspected.culprit_ranks == (2,)
    assert judged(job) == [], "to suspect changes nothing"


@pytest.mark.parametrize(
    ("waited", "busy", "told"), [(8.0, True, True), (8.0, False, False), (3.0, True, False)]
)
def test_a_rank_that_is_late_and_busy_is_a_warning_before_its_deadline(
    waited: float, busy: bool, told: bool
) -> None:
    job = hung_job(waited=waited)
    now = 10.0 + waited
    looked: dict[str, object] = {
        "settled_since_ns": int((now - 2) * SECOND),
        "settled_cpu_s": 2.0 if busy else 0.0,
        "unchanged_since_ns": int((now - 2) * SECOND),
    }
    job.stack(2, now, (frame("compile_step", "/job/train.py", 9),), looked)
    findings = [(f.code, f.severity, f.culprit_ranks) for f in judged(job)]
    assert findings == ([("collective.straggler", "warning", (2,))] if told else [])
