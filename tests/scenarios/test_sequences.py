"""Collectives that do not fit or that a rank leaves: DDP, FSDP2, DTensor, groups, 2 to 4 ranks."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.ranks import launch_ranks
from tests.support.verdicts import assert_healthy
from tests.support.without_torch import torch_before

MISSING, UNEVEN = "collective.rank_missing", "collective.count_uneven"
BY_STACKS = {
    "ddp": ("collective.op_mismatch", ("backward", "barrier")),
    "dtensor": (MISSING, ("an asynchronous call", "wait_for_evaluation")),
}
"""Where C++ makes the calls and torch's recorder leaves gloo out, as before 2.8, nothing can be counted."""


@pytest.mark.parametrize(
    ("case", "world", "who", "code", "culprits", "mentions"),
    [
        ("loop", 3, 1, UNEVEN, {1}, ("4 times", "only 3 times", "reduce_gradients")),
        ("loop", 2, 0, UNEVEN, {0, 1}, ("4 times", "did before")),
        ("epochs", 3, 0, UNEVEN, {0}, ("3 times", "only 2 times", "barrier")),
        ("ddp", 3, 2, UNEVEN, {2}, ("all_reduce", "barrier")),
        ("fsdp", 3, 0, UNEVEN, {0}, ("all_gather_into_tensor", "barrier")),
        ("fsdp_left", 3, 1, MISSING, {1}, ("all_gather_into_tensor", "wait_for_evaluation")),
        ("dtensor", 3, 2, MISSING, {2}, ("all_gather", "axis tp", "wait_for_evaluation")),
        ("swapped", 3, 1, "collective.op_mismatch", {1}, ("broadcast", "all_reduce", "swap_once")),
        ("main_process", 4, 0, "collective.op_mismatch", {0}, ("all_gather", "barrier")),
        ("dtype", 3, 2, "collective.dtype_mismatch", {2}, ("float64", "float32")),
        ("shape", 3, 0, "collective.shape_mismatch", {0}, ("100 elements", "200 elements")),
        ("groups", 4, 3, MISSING, {3}, ("wait_for_evaluation",)),
        ("monitored", 4, 2, MISSING, {2}, ("monitored_barrier", "wait_for_evaluation")),
    ],
)  # fmt: skip
def test_calls_that_do_not_fit(
    case: str, world: int, who: int, code: str, culprits: set[int], mentions: tuple[str, ...]
) -> None:
    if case.startswith("fsdp") and torch_before(2, 6):
        pytest.skip("FSDP2 of this torch needs a GPU: it raises `FSDP requires CUDA for streams`")
    if torch_before(2, 8):
        code, mentions = BY_STACKS.get(case, (code, mentions))
    with launch_ranks("sequences", world, args=(case, str(who))) as job:
        job.wait_step("go", set(range(world)))
        job.wait_verdict(code, culprits, mentions=mentions)


def test_timeouts_that_differ_are_a_warning_and_no_hang() -> None:
    with launch_ranks("sequences", 3, args=("timeouts", "1")) as job:
        job.wait_step("done", {0, 1, 2})
        assert job.wait_ended() == [0, 0, 0]

        def warned(state: RunState) -> bool:
            found = [(f.code, f.severity, f.culprit_ranks) for f in diagnose(state)]
            return found == [("collective.timeout_disagrees", "warning", (1,))]

        job.wait_state(warned)
        assert_healthy(job.judged_blocking())
