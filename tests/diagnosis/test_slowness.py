"""A rank that moves something is slow, one that waits for requests is idle, and a logger's thread excuses nobody."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.diagnosis.verdict.headline import headline_of
from distwatch.state import events as ev
from distwatch.state.flow import Flow, Moved
from tests.diagnosis.recorded import HOST, READING, SECOND, WAITING, RecordedJob, frame, root

QUEUE = (frame("main", "/job/serve.py", 5), frame("get", "/usr/lib/python3.11/queue.py", 171))
STDLIB_ACCEPT = "accept on socket listening on 0.0.0.0:8000"
WRITING = Flow(main=Moved(at_ns=29 * SECOND, written_bytes=3 << 20), over_s=8.0)
BESIDE = Flow(others=Moved(at_ns=29 * SECOND, written_bytes=900), over_s=8.0)


def job(
    op: str = "broadcast",
    rank0: tuple[ev.Frame, ...] = READING,
    *,
    since: float = 2,
    beat: float = 30,
) -> RecordedJob:
    """Rank 0 is elsewhere, 1 and 2 have waited for it in #2, by default for three times the deadline."""
    made = RecordedJob(3)
    made.initialize(0, 1, 2)
    made.pulse(0, at=beat, groups={"0": (1, 1, 1.5)})
    for rank in (1, 2):
        called = made.operation(rank, op, 2, at=since)
        made.pulse(rank, at=30, groups={"0": (2, 1, since)}, operations=(called,))
        made.stack(rank, 28, WAITING)
    made.stack(0, 28, rank0)
    return made


def test_who_writes_is_slow() -> None:
    made = job()
    made.sample(0, 30, "S", flow=WRITING)
    findings = diagnose(made.state)
    slow = root(findings)
    assert (slow.code, slow.severity, slow.culprit_ranks) == (
        "collective.straggler",
        "warning",
        (0,),
    )
    assert slow.waiting_ranks == (1, 2)
    assert "written 3.0 MiB in the last 8.0 s" in slow.summary
    assert not any(finding.blocks for finding in findings)
    assert headline_of([Case(made.state)], findings, rank_statuses(made.state)).word == "slow"


@pytest.mark.parametrize(
    "flow",
    [
        None,
        Flow(over_s=8.0),
        BESIDE,
        Flow(main=Moved(at_ns=12 * SECOND, written_bytes=9), over_s=8.0),
    ],
    ids=["nobody looked", "nothing moves", "a logger's thread writes", "it wrote long ago"],
)
def test_who_moves_nothing_hangs(flow: Flow | None) -> None:
    made = job()
    made.sample(0, 30, "S", flow=flow)
    found = root(diagnose(made.state))
    assert (found.severity, found.culprit_ranks) == ("hang", (0,))


def test_a_thread_counts_where_main_waits_for_it() -> None:
    saving = (frame("main", "/job/t.py"), frame("save", "/x/torch/distributed/checkpoint/async.py"))
    made = job(rank0=saving)
    made.sample(0, 30, "S", flow=BESIDE)
    assert root(diagnose(made.state)).severity == "warning"


@pytest.mark.parametrize(("places", "severity"), [(1, "hang"), (4, "hang"), (5, "warning")])
def test_a_loop_that_computes_is_told_from_one_that_waits(places: int, severity: str) -> None:
    made = job()
    looked = {"settled_since_ns": 2 * SECOND, "settled_cpu_s": 25.0, "settled_places": places}
    made.stack(0, 29, (frame("evaluate", "/job/train.py", 7),), looked)
    found = root(diagnose(made.state))
    assert (found.severity, found.culprit_ranks) == (severity, (0,))
    assert found.code == ("process.livelock" if severity == "hang" else "collective.straggler")


def test_who_writes_the_same_over_and_over_hangs() -> None:
    """A retry that pauses outside its handler: its exception is over whenever anybody looks."""
    made = job()
    made.stack(0, 29, (frame("try_again", "/job/train.py", 7),))
    flow = Flow(main=Moved(written_bytes=900), over_s=8.0, repeats="cannot allocate 3 GiB")
    made.sample(0, 30, "S", syscall="clock_nanosleep", flow=flow)
    found = root(diagnose(made.state))
    assert (found.code, found.severity, found.culprit_ranks) == ("process.livelock", "hang", (0,))
    assert "over and over, and its log says each time: cannot allocate 3 GiB" in found.summary


COMPUTING = {"settled_since_ns": 2 * SECOND, "settled_cpu_s": 25.0, "looks": 10}
FILLING = Flow(main=Moved(at_ns=29 * SECOND, touched_bytes=9 << 20), cpu_s=8.0, over_s=8.0)
BUSY = Flow(cpu_s=8.0, over_s=8.0)
POLLING = Flow(cpu_s=8.0, system_s=2.0, over_s=8.0)
EVALUATE = (frame("evaluate", "/job/train.py", 3),)


def test_who_computes_and_fills_memory_is_slow() -> None:
    made = job(rank0=EVALUATE)
    made.stack(0, 29, EVALUATE, COMPUTING)
    made.sample(0, 30, "R", flow=FILLING)
    slow = root(diagnose(made.state))
    assert slow.severity == "warning"
    assert "filled 9.0 MiB of memory" in slow.summary


@pytest.mark.parametrize(
    ("flow", "lines", "severity"),
    [(BUSY, 10, "warning"), (BUSY, 9, "hang"), (POLLING, 10, "hang")],
    ids=["many lines", "few lines", "many lines that ask the kernel"],
)
def test_lines_of_a_library_show_work(flow: Flow, lines: int, severity: str) -> None:
    made = job(rank0=EVALUATE)
    made.stack(0, 29, EVALUATE, COMPUTING | {"settled_lines": lines})
    made.sample(0, 30, "R", flow=flow)
    assert root(diagnose(made.state)).severity == severity


@pytest.mark.parametrize(
    ("loop", "severity"),
    [("for batch in rows:", "warning"), ("while not done.is_set():", "hang")],
)
def test_a_computation_that_ends_is_no_livelock(loop: str, severity: str) -> None:
    made = job(rank0=EVALUATE)
    text = f"def evaluate():\n    {loop}\n        model(batch)\n"
    made.see(28, ev.SourceFileRead(host=HOST, file="/job/train.py", text=text))
    made.stack(0, 29, EVALUATE, COMPUTING)
    made.sample(0, 30, "R", flow=BUSY)
    found = root(diagnose(made.state))
    assert (found.severity, found.culprit_ranks) == (severity, (0,))


@pytest.mark.parametrize(
    ("loop", "severity"),
    [("for row in rows:", "warning"), ("while not done.is_set():", "hang")],
)
def test_work_may_catch_an_exception_of_each_bad_row(loop: str, severity: str) -> None:
    made = job(rank0=EVALUATE)
    text = f"def evaluate():\n    {loop}\n        read(row)\n"
    made.see(28, ev.SourceFileRead(host=HOST, file="/job/train.py", text=text))
    made.stack(0, 29, EVALUATE, COMPUTING)
    held = ev.ExceptionHeld(type_name="ValueError", message="no number", times=4)
    made.say(0, 29, held)
    made.sample(0, 30, "R", flow=BUSY)
    found = diagnose(made.state)
    assert {f.severity for f in found if f.culprit_ranks == (0,)} == {severity}
    assert (root(found).code == "process.exception_pending") == (severity == "hang")


def test_who_computes_in_a_call_that_holds_the_gil_is_slow() -> None:
    made = job(rank0=EVALUATE, beat=12)
    text = "def evaluate():\n    for batch in rows:\n        model(batch)\n"
    made.see(28, ev.SourceFileRead(host=HOST, file="/job/train.py", text=text))
    made.stack(0, 29, EVALUATE, COMPUTING, owns_gil=True)
    made.sample(0, 30, "R", flow=BUSY)
    assert {f.severity for f in diagnose(made.state)} == {"warning"}
    made.sample(0, 31, "S", flow=Flow(over_s=8.0))
    made.stack(0, 31, EVALUATE, {"looks": 10}, owns_gil=True)
    assert root(diagnose(made.state)).code == "process.gil_held"


def test_a_rank_that_has_not_beaten_since_is_not_in_the_call_that_others_have_left() -> None:
    """On a crowded host a late heartbeat does not count as frozen; rank 0 may long have left its barrier."""
    made = RecordedJob(2)
    made.initialize(0, 1)
    made.see(2, ev.HostSampled(host=HOST, cpus=2, load=64.0))
    barrier = made.operation(0, "barrier", 1, at=17)
    made.pulse(0, at=18, groups={"0": (1, 0, 17.0)}, operations=(barrier,))
    done = made.operation(1, "barrier", 1, at=17, left=18)
    inside = made.operation(1, "broadcast", 2, at=18)
    made.pulse(1, at=30, groups={"0": (2, 1, 18.0)}, operations=(done, inside))
    made.sample(0, 30, "R")
    found = root(diagnose(made.state))
    assert (found.code, found.culprit_ranks) == ("collective.rank_missing", (0,))


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        ({"settled_looks": 6}, "warning"),
        ({"settled_looks": 5}, "hang"),
        ({"settled_looks": 9, "settled_returns": 1}, "hang"),
    ],
    ids=["it stays there", "too few looks", "it returns to the loop"],
)
def test_a_function_that_a_polling_loop_calls(seen: dict[str, int], severity: str) -> None:
    inside = (frame("serve", "/job/train.py", 6), *EVALUATE)
    made = job(rank0=inside)
    text = "def evaluate():\n    pass\n    model(batch)\ndef serve():\n    while not closed():\n        evaluate()\n"
    made.see(28, ev.SourceFileRead(host=HOST, file="/job/train.py", text=text))
    made.stack(0, 29, inside, COMPUTING | seen)
    made.sample(0, 30, "R", flow=BUSY)
    assert root(diagnose(made.state)).severity == severity


def test_native_code_that_holds_the_gil_and_fills_memory_is_slow() -> None:
    made = job(rank0=EVALUATE, beat=9)
    owner = ev.ThreadStack(name="MainThread", os_thread_id=1000, frames=EVALUATE, owns_gil=True)
    made.see(29, ev.StackTaken(process=made.key(0), threads=(owner,)))
    made.sample(0, 30, "R", flow=BUSY)
    assert root(diagnose(made.state)).code == "process.gil_held"
    made.sample(0, 30, "R", flow=FILLING)
    assert root(diagnose(made.state)).severity == "warning"


@pytest.mark.parametrize(("looks", "severity"), [(5, "warning"), (6, "hang")])
def test_a_rank_that_runs_is_looked_at_twice_before_it_hangs(looks: int, severity: str) -> None:
    made = job(rank0=EVALUATE, since=18)
    made.stack(0, 29, EVALUATE, COMPUTING | {"looks": looks})
    made.sample(0, 30, "R", flow=BUSY)
    found = root(diagnose(made.state))
    assert (found.severity, found.culprit_ranks) == (severity, (0,))


SLEEPING = (frame("main", "/job/train.py", 9),)
IMPORTING = (frame("<module>", "/job/models.py", 3),)


def observed(frames: tuple[ev.Frame, ...] = IMPORTING, *, since: float = 18) -> RecordedJob:
    """An observer is there, which has not looked yet at what rank 0 moves."""
    made = job(rank0=frames, since=since)
    made.see(1, ev.ObserverStarted(host=HOST, pid=1))
    return made


def test_before_the_first_look_no_rank_is_said_to_hang() -> None:
    made = observed()
    found = root(diagnose(made.state))
    assert (found.code, found.severity) == ("collective.straggler", "warning")
    assert "not yet known" in found.summary
    made.sample(0, 30, "S")
    assert root(diagnose(made.state)).severity == "warning", "one sample shows no movement"
    made.sample(0, 30.5, "S", flow=Flow(over_s=2.0, at_ns=30 * SECOND))
    found = root(diagnose(made.state))
    assert (found.code, found.severity) == ("collective.rank_missing", "hang")


def test_without_an_observer_no_look_will_come() -> None:
    found = root(diagnose(job(rank0=IMPORTING, since=18).state))
    assert (found.code, found.severity) == ("collective.rank_missing", "hang")


def test_no_look_is_waited_for_without_end() -> None:
    assert root(diagnose(observed(since=15.9).state)).severity == "hang"


def test_who_is_seen_asleep_hangs_before_any_look() -> None:
    made = observed(SLEEPING)
    made.sample(0, 30, "S", syscall="clock_nanosleep")
    assert root(diagnose(made.state)).severity == "hang"


def test_who_is_stopped_is_said_to_be_before_any_look() -> None:
    made = observed()
    made.sample(0, 30, "T")
    found = diagnose(made.state)
    assert root(found).code == "process.stopped"
    assert {f.severity for f in found} == {"hang"}


def test_a_job_that_was_ended_before_any_look_did_hang() -> None:
    made = RecordedJob(2)
    made.start(1)
    made.enter(0)
    made.see(1, ev.ObserverStarted(host=HOST, pid=1))
    for rank in range(2):
        made.exit(rank, 7.5, signal=15)
    found = root(diagnose(made.state))
    assert (found.code, found.culprit_ranks) == ("rendezvous.rank_missing", (1,))
    assert found.severity == "hang"


def test_an_engine_that_listens_is_idle() -> None:
    made = job()
    made.sample(0, 30, "S", syscall="epoll_wait", blocked_on="socket listening on 0.0.0.0:8000")
    assert diagnose(made.state) == []
    statuses = rank_statuses(made.state)
    assert [status.word for status in statuses] == ["idle", "waiting", "waiting"]
    verdict = headline_of([Case(made.state)], [], statuses)
    assert verdict.word == "idle"
    assert verdict.summary == (
        "rank 0 is idle and waits for requests: socket listening on 0.0.0.0:8000; ranks 1-2 wait for it"
    )


def test_who_listens_while_others_need_its_share_hangs() -> None:
    made = job("all_reduce")
    made.sample(0, 30, "S", syscall="accept", blocked_on="socket listening on 0.0.0.0:8000")
    assert root(diagnose(made.state)).culprit_ranks == (0,)


@pytest.mark.parametrize(("waits_in", "idle"), [(STDLIB_ACCEPT, True), ("read on /data/x", False)])
def test_a_queue_that_a_receiver_can_fill(waits_in: str, idle: bool) -> None:
    made = job(rank0=QUEUE)
    threads = (
        ev.ThreadStack(name="MainThread", os_thread_id=1000, frames=QUEUE),
        ev.ThreadStack(name="receiver", frames=READING, waits_in=waits_in),
    )
    made.see(29, ev.StackTaken(process=made.key(0), threads=threads))
    findings = diagnose(made.state)
    assert (findings == []) == idle
    assert idle or root(findings).culprit_ranks == (0,)


def test_a_compiler_that_works_is_compiling() -> None:
    compiling = (frame("main", "/job/t.py"), frame("compile", "/x/torch/_inductor/graph.py"))
    made = job(rank0=compiling)
    made.sample(0, 30, "R", flow=Flow(cpu_s=7.0, over_s=8.0))
    found = root(diagnose(made.state))
    assert (found.code, found.severity) == ("process.compiling", "warning")
    made.sample(0, 31, "S", flow=Flow(cpu_s=0.1, over_s=8.0))
    assert root(diagnose(made.state)).severity == "hang"
