"""torch's own timeout is a symptom: the verdict names who was missing, or came too late."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.ranks import launch_ranks
from tests.support.verdicts import assert_verdict


def rank_0_has_timed_out(state: RunState) -> bool:
    return any(p.global_rank == 0 and p.exception and p.ended_ns for p in state.processes.values())


def test_the_rank_that_torch_waited_for_in_vain() -> None:
    with launch_ranks("times_out", 2) as job:
        job.wait_step("gate evaluation", {1})
        state = job.wait_state(rank_0_has_timed_out)
        assert_verdict(
            diagnose(state),
            code="process.data_stall",  # its test's gate is a FIFO
            culprits={1},
            mentions=("all_reduce #2", "times_out.py", "evaluate"),
        )


def test_the_rank_that_came_after_the_timeout() -> None:
    with launch_ranks("times_out", 2) as job:
        job.wait_step("gate evaluation", {1})
        job.wait_state(rank_0_has_timed_out)
        job.open_gate("evaluation", 1)
        job.wait_verdict("collective.straggler", {1}, mentions=("all_reduce #2",))
