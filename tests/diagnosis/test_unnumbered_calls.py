"""Ranks in calls of C++ that neither a hook nor torch's recorder counts, as on gloo before torch 2.8."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.calm import calm_run
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.suspicion import suspicion_of
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.state import events as ev
from distwatch.state.flow import Flow, Moved
from tests.diagnosis.recorded import READING, SECOND, RecordedJob, frame, root

TORCH = "/venv/lib/python3.11/site-packages/torch"
GATHERING = (
    frame("main", "/job/train.py", 9),
    frame("wait_tensor", f"{TORCH}/distributed/_functional_collectives.py", 200),
    frame("OpOverload.redispatch", f"{TORCH}/_ops.py", 800),
)
BACKWARD = (
    frame("main", "/job/train.py", 12),
    frame("backward", f"{TORCH}/autograd/__init__.py", 300),
    frame("_engine_run_backward", f"{TORCH}/autograd/graph.py", 800),
)
BARRIER = (
    frame("main", "/job/train.py", 20),
    frame("barrier", f"{TORCH}/distributed/distributed_c10d.py", 4000),
)
SINCE = 10.0
DUE = 21.0
"""A second after the deadline of who has slept since then."""


def uncounting(*stacks: tuple[ev.Frame, ...], unrecorded: tuple[str, ...] = ("gloo",)) -> RecordedJob:  # fmt: skip
    """Ranks whose main threads have slept in these stacks for eleven seconds."""
    job = RecordedJob(len(stacks))
    job.initialize(*range(len(stacks)))
    for rank, frames in enumerate(stacks):
        confirm(job, rank, len(stacks), unrecorded)
        job.stack(rank, DUE - 0.5, frames)
        job.pulse(rank, at=DUE)
        sleep(job, rank)
    job.tick(DUE)
    return job


def confirm(job: RecordedJob, rank: int, world: int, unrecorded: tuple[str, ...]) -> None:
    told = ev.IdentityConfirmed(global_rank=rank, world_size=world, unrecorded=unrecorded)
    job.say(rank, 2.0 + world / 10, told)


def sleep(job: RecordedJob, rank: int, *, since: float = SINCE, **flow: object) -> None:
    """What the kernel counts of a rank; since 0: it runs."""
    told = {"over_s": 10.0, "at_ns": int(DUE * SECOND), "asleep_since_ns": int(since * SECOND)}
    job.sample(rank, DUE, "S", syscall="futex", flow=Flow(**{**told, **flow}))  # type: ignore[arg-type]


def wait_in_barrier(job: RecordedJob, rank: int) -> None:
    job.pulse(
        rank,
        at=DUE,
        groups={"0": (4, 3, SINCE)},
        operations=(job.operation(rank, "barrier", 4, at=SINCE, left=SINCE + 0.1),),
    )


def test_a_rank_that_does_not_come_is_named_by_the_stacks_of_those_that_wait() -> None:
    verdict = root(diagnose(uncounting(GATHERING, GATHERING, READING).state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.rank_missing", (2,))
    assert verdict.waiting_ranks == (0, 1)
    assert "2.8" in verdict.advice


def test_nothing_of_it_holds_where_the_recorder_counts_the_calls() -> None:
    job = uncounting(GATHERING, GATHERING, READING, unrecorded=())
    assert diagnose(job.state) == []


def test_a_wait_that_the_deadline_allows_is_no_hang() -> None:
    job = uncounting(GATHERING, GATHERING, READING)
    sleep(job, 0, since=DUE - 6)
    assert diagnose(job.state) == []


def test_a_stack_from_before_it_slept_says_nothing() -> None:
    job = uncounting(GATHERING, GATHERING, READING)
    sleep(job, 1, since=DUE - 0.4)
    assert set(Case(job.state).unnumbered) == {0}


@pytest.mark.parametrize("works", [{"since": 0.0, "cpu_s": 8.0}, {"others": Moved(busy_s=8.0)}])
def test_who_computes_does_not_wait(works: dict[str, object]) -> None:
    """The main thread itself, or threads that work for it."""
    job = uncounting(BACKWARD, BACKWARD, READING)
    for rank in (0, 1):
        sleep(job, rank, **works)  # type: ignore[arg-type]
    assert diagnose(job.state) == []


def test_a_rank_that_moves_while_the_others_wait_is_slow() -> None:
    job = uncounting(GATHERING, GATHERING, READING)
    moving = Moved(at_ns=int(DUE * SECOND), read_bytes=1 << 30)
    sleep(job, 2, since=0.0, main=moving)
    assert [finding.severity for finding in diagnose(job.state)] == ["warning"]


def test_those_in_a_call_without_a_number_are_not_missing_from_one_that_has_one() -> None:
    """One rank has left its loop too early: the others are still in a backward of DDP."""
    job = uncounting(BACKWARD, BARRIER, BACKWARD)
    wait_in_barrier(job, 1)
    verdict = root(found := diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.op_mismatch", (1,))
    assert {rank for finding in found for rank in finding.culprit_ranks} == {1}


def test_two_ranks_in_calls_that_differ_are_as_odd_as_each_other() -> None:
    job = uncounting(BACKWARD, BARRIER)
    wait_in_barrier(job, 1)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.op_mismatch", (0, 1))


def test_all_in_the_same_call_are_a_hang_of_nobody() -> None:
    verdict = root(diagnose(uncounting(GATHERING, GATHERING).state))
    assert (verdict.severity, verdict.culprit_ranks) == ("hang", ())
    assert verdict.waiting_ranks == (0, 1)


def test_nobody_is_named_while_a_rank_is_unseen() -> None:
    job = uncounting(GATHERING, GATHERING)
    for rank in (0, 1):
        confirm(job, rank, 3, ("gloo",))
    assert Case(job.state).job.world == 3
    assert diagnose(job.state) == []


def test_a_rank_that_runs_in_a_call_is_not_stuck_in_it() -> None:
    job = uncounting(GATHERING, GATHERING, GATHERING)
    sleep(job, 2, since=0.0, cpu_s=3.0)
    assert diagnose(job.state) == []


def test_a_call_that_has_not_returned_has_its_own_check() -> None:
    job = uncounting(GATHERING, GATHERING, READING)
    for rank in (0, 1):
        job.pulse(
            rank, at=DUE, operations=(job.operation(rank, "monitored_barrier", -1, at=SINCE),)
        )
    assert not Case(job.state).unnumbered


def test_a_rank_that_sleeps_is_worth_a_look() -> None:
    def suspicion(job: RecordedJob) -> str:
        case = Case(job.state)
        return suspicion_of(case.job, case.groups)

    assert "rank 0 sleeps" in suspicion(uncounting(GATHERING, READING))
    assert suspicion(uncounting(GATHERING, READING, unrecorded=())) == ""


def test_a_run_in_which_a_rank_sleeps_is_not_calm() -> None:
    job = uncounting(READING, READING)
    for rank in (0, 1):
        sleep(job, rank, since=DUE - 0.5)
    run = calm_run(cases := cases_of(job.state), diagnose(cases))
    assert run is not None
    assert run.goes_on()
    sleep(job, 1, since=DUE - 1.5)
    assert not run.goes_on()
