"""Roots that differ, threads and finalizers on one group, other lines, groups destroyed too early, skewed names."""

from __future__ import annotations

from distwatch.state import events as ev
from tests.diagnosis.recorded import (
    SECOND,
    WAITING,
    RecordedJob,
    hung_job,
    judged,
    only_root,
    root,
)

LOSS = ev.Site(file="/job/train.py", line=10, function="reduce_loss")
PENALTY = ev.Site(file="/job/train.py", line=20, function="reduce_penalty")
SAVER = ev.Site(file="/job/save.py", line=5, function="gather", caller="thread saver")
DEL = ev.Site(
    file="/job/metric.py", line=7, function="__del__", caller="the finalizer Metric.__del__"
)


def stuck_calls(**of_rank: tuple[tuple[str, int, int, int], ...]) -> RecordedJob:
    """All ranks are in #2. Of each: (operation, number, site's number, src or dst), …"""
    job = RecordedJob(len(of_rank))
    job.initialize(*range(len(of_rank)))
    for rank, calls in enumerate(of_rank.values()):
        for number, site in ((1, LOSS), (2, PENALTY), (3, SAVER), (4, DEL)):
            job.say(rank, 1.0, ev.SiteSeen(number=number, site=site))
        operations = tuple(
            ev.Operation(
                number=n, op=op, pg_name="0", seq=seq, site=site, peer=peer, numel=8, dtype="float32",
                entered_ns=(4 + n) * SECOND,
            )
            for n, (op, seq, site, peer) in enumerate(calls, start=1)
        )  # fmt: skip
        job.pulse(rank, at=30.0, groups={"0": (2, 1, 6.0)}, operations=operations)
        job.stack(rank, 30.0, WAITING)
    job.tick(30.0)
    return job


def test_who_named_which_root() -> None:
    job = stuck_calls(
        r0=(("broadcast", 2, 1, 0),), r1=(("broadcast", 2, 1, 1),), r2=(("broadcast", 2, 1, 0),)
    )
    finding = only_root(job, "collective.root_disagrees", 1)
    assert "rank 1 named rank 1 as src" in finding.summary
    assert "ranks 0,2 named rank 0 as src" in finding.summary
    assert finding.waiting_ranks == (0, 2)


def test_two_sides_of_equal_size_are_both_named() -> None:
    job = stuck_calls(r0=(("reduce", 2, 1, 0),), r1=(("reduce", 2, 1, 1),))
    assert "as dst" in only_root(job, "collective.root_disagrees", 0, 1).summary


def test_one_root_is_no_fault() -> None:
    job = stuck_calls(r0=(("broadcast", 2, 1, 0),), r1=(("broadcast", 2, 2, 0),))
    assert "collective.root_disagrees" not in {finding.code for finding in judged(job)}


def test_two_threads_in_another_order_on_each_rank() -> None:
    job = stuck_calls(
        r0=(("barrier", 2, 1, -1), ("allgather", 3, 3, -1)),
        r1=(("allgather", 2, 3, -1), ("barrier", 3, 1, -1)),
    )
    finding = only_root(job, "collective.concurrent_threads", 0, 1)
    assert "rank 0 is in barrier from the main thread" in finding.summary
    assert "rank 1 is in all_gather from thread saver" in finding.summary


def test_a_finalizer_that_calls_a_collective() -> None:
    job = stuck_calls(r0=(("allreduce", 2, 1, -1),), r1=(("reduce", 2, 4, 0),))
    finding = only_root(job, "collective.concurrent_threads", 1)
    assert "the finalizer Metric.__del__" in finding.summary
    assert finding.waiting_ranks == (0,)


def test_calls_that_differ_in_one_thread_are_a_mismatch() -> None:
    job = stuck_calls(r0=(("barrier", 2, 1, -1),), r1=(("allgather", 2, 2, -1),))
    assert root(judged(job)).code == "collective.op_mismatch"
    same = stuck_calls(r0=(("barrier", 2, 3, -1),), r1=(("allgather", 2, 3, -1),))
    assert root(judged(same)).code == "collective.op_mismatch"


def sited_job(*sites: tuple[int, ...]) -> RecordedJob:
    """A job that goes on; of each rank, the sites of its all_reduces."""
    job = stuck_calls(**{f"r{rank}": () for rank in range(len(sites))})
    for rank, numbers in enumerate(sites):
        operations = tuple(
            job.operation(rank, "allreduce", seq, at=float(seq), left=seq + 0.1, site=site)
            for seq, site in enumerate(numbers, start=1)
        )
        done = len(numbers)
        job.pulse(rank, at=31.0, groups={"0": (done, done, 30.5)}, operations=operations)
    job.tick(31.0)
    return job


def test_an_equal_call_from_another_line_is_a_warning() -> None:
    (finding,) = judged(sited_job((1, 1, 1), (1, 2, 1)))
    assert (finding.code, finding.severity) == ("collective.site_differs", "warning")
    assert finding.culprit_ranks == (1,)
    assert "#2" in finding.summary
    assert "reduce_penalty" in finding.summary


def test_branches_by_role_are_meant() -> None:
    assert not judged(sited_job((1, 1, 1), (2, 2, 2)))
    assert not judged(sited_job((1, 2, 1), (1, 2, 1)))


def destroyed_job(*, pg_name: str = "") -> RecordedJob:
    job = hung_job(world=2, culprit=1)
    job.say(1, 9.8, ev.GroupDestroyed(pg_name=pg_name))
    return job


def test_a_group_that_others_still_use() -> None:
    finding = only_root(destroyed_job(), "group.destroyed", 1)
    assert "rank 0 still called all_reduce #5" in finding.summary
    assert finding.waiting_ranks == (0,)
    only_root(destroyed_job(pg_name="0"), "group.destroyed", 1)


def test_its_user_may_have_failed_by_it() -> None:
    job = destroyed_job()
    job.fail(0, 30.5, "RuntimeError", "gloo/transport/tcp/pair.cc: Connection closed by peer")
    job.exit(0, 31.0, code=1)
    assert only_root(job, "group.destroyed", 1).severity == "crash"


def test_a_normal_end_destroys_groups_too() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        done = job.operation(rank, "allreduce", 4, at=9, left=9.5)
        job.pulse(rank, at=13.0, groups={"0": (4, 4, 9.5)}, operations=(done,))
    job.say(1, 11.0, ev.GroupDestroyed(pg_name=""))
    job.tick(14.0)
    assert not judged(job)


def local_job(*held: int) -> RecordedJob:
    job = RecordedJob(len(held))
    job.initialize(*range(len(held)))
    for rank, count in enumerate(held):
        called = ev.LocalGroupCalled(number=1, members=tuple(range(len(held))), held=count)
        job.say(rank, 5.0, called)
        job.begin(rank, 50, "new_group (members only)", 5.0)
    job.tick(12.0)
    return job


def test_groups_of_members_only_have_other_names() -> None:
    finding = only_root(local_job(1, 2, 1), "group.counter_skew", 1)
    assert "rank 1 held 2 groups" in finding.summary
    assert finding.waiting_ranks == (0, 2)


def test_members_that_hold_as_many_groups_are_only_slow() -> None:
    assert "group.counter_skew" not in {finding.code for finding in judged(local_job(1, 1))}
