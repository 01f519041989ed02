"""Who moves is slow and who waits for requests is idle, whatever deadline passes; who moves nothing hangs."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.diagnosis.verdict.headline import headline_of
from distwatch.state.model import RunState
from tests.support.ranks import launch_ranks
from tests.support.verdicts import assert_healthy, assert_verdict

DEADLINE_S = 8.0
DEADLINES = {"DISTWATCH_DEADLINES": f"init=60,group=60,load=60,collective={DEADLINE_S:.0f}"}
LONGER_S = DEADLINE_S + 4.0
MOVING = {
    "checkpoint": ("collective.straggler", "written"),
    "evaluate": ("collective.straggler", "written"),
    "compile": ("process.compiling", "is compiling"),
    "child": ("collective.straggler", "its child process"),
}


def waited_s(state: RunState) -> float:
    return max((wait.waited_s for wait in Case(state).job.waits), default=0.0)


@pytest.mark.parametrize("way", [*MOVING, "download"])
def test_a_rank_that_moves_is_slow(way: str) -> None:
    code, moved = MOVING.get(way, ("collective.straggler", "received"))
    with launch_ranks("works_alone", 2, env=DEADLINES, args=(way,)) as job:
        job.wait_step("waiting", {1})
        state = job.wait_state(lambda state: waited_s(state) > LONGER_S)
        findings = diagnose(state)
        assert_healthy(findings)
        slow = assert_verdict(findings, code=code, culprits={0}, mentions=[moved])
        assert slow.severity == "warning"
        assert slow.waiting_ranks == (1,)
        assert headline_of([Case(state)], findings, rank_statuses(state)).word == "slow"
        job.open_gate("enough", 0)
        assert job.wait_ended() == [0, 0]
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())


@pytest.mark.parametrize("way", MOVING)
def test_the_same_work_that_stands_still_hangs(way: str) -> None:
    with launch_ranks("works_alone", 2, env=DEADLINES, args=(way,)) as job:
        job.wait_step("waiting", {1})
        job.wait_state(lambda state: waited_s(state) > LONGER_S)
        assert_healthy(job.judged_blocking())
        job.open_gate("stall", 0)
        hang = job.wait_verdict(("process.data_stall", "collective.rank_missing"), {0})
        assert hang.severity == "hang"


@pytest.mark.parametrize(
    ("way", "wakes"),
    [
        ("serve", "listening on"),
        ("serve_by_thread", "receiver"),
        ("serve_by_loop", "listening on"),
    ],
)
def test_an_engine_without_requests_is_idle(way: str, wakes: str) -> None:
    with launch_ranks("works_alone", 2, env=DEADLINES, args=(way,)) as job:
        job.wait_step("waiting", {1})
        state = job.wait_state(lambda state: waited_s(state) > LONGER_S)
        assert diagnose(state) == []
        statuses = rank_statuses(state)
        assert [status.word for status in statuses] == ["idle", "waiting"]
        assert wakes in statuses[0].doing
        assert headline_of([Case(state)], [], statuses).word == "idle"
        job.open_gate("enough", 0)
        assert job.wait_ended() == [0, 0]
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())
