"""Ranks that never enter a collective or a group, or enter another one than the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.call_paths import by_python_alone
from tests.support.ranks import launch_ranks, torchrun
from tests.support.without_torch import torch_before

MISSING = "collective.rank_missing"
WAYS = [
    pytest.param("read", "all_reduce", 2, 1, "read_next_shard", "process.data_stall", id="fifo"),
    pytest.param("queue", "async", 3, 0, "take_batch", MISSING, id="queue-rank-0"),
    pytest.param("child", "gather", 2, 1, "await_upload", MISSING, id="child-process"),
    pytest.param("lock", "barrier", 8, 5, "acquire_cache_lock", "process.lock_wait", id="8-ranks"),
]


@pytest.mark.parametrize(("way", "collective", "world_size", "missing", "function", "code"), WAYS)
def test_rank_that_never_enters_a_collective(
    way: str, collective: str, world_size: int, missing: int, function: str, code: str
) -> None:
    args = (way, str(missing), collective)
    with launch_ranks("elsewhere", world_size, args=args) as job:
        job.wait_step("stalled", {missing})
        job.wait_step("waiting", set(range(world_size)) - {missing})
        finding = job.wait_verdict(code, {missing}, mentions=("elsewhere.py", function))
        assert set(finding.waiting_ranks) == set(range(world_size)) - {missing}
        told = {(f.code, f.culprit_ranks) for f in diagnose(job.state())}
        assert (MISSING, (missing,)) in told


def test_rank_missing_in_a_sub_group_blames_no_rank_outside_it() -> None:
    with launch_ranks("elsewhere", 4, args=("read", "3", "all_reduce", "1", "3")) as job:
        job.wait_step("stalled", {3})
        job.wait_step("waiting", {1})
        job.wait_step("idle", {0, 2})
        job.wait_verdict("process.data_stall", {3})

        def both_waits_are_told(state: RunState) -> bool:
            # Ranks 0 and 2 have gone on to a barrier of all, in which 1 and 3 are missing.
            return {(1,), (0, 2)} <= {found.waiting_ranks for found in diagnose(state)}

        state = job.wait_state(both_waits_are_told)
        blamed = {rank for found in diagnose(state) for rank in found.culprit_ranks}
        assert blamed == {3}


def test_barrier_on_rank_0_only() -> None:
    with torchrun("barrier_on_rank0", 2) as job:
        job.wait_step("gate evaluation", {1})
        job.wait_step("waiting", {0})
        job.wait_verdict(
            ("collective.rank_missing", "process.data_stall"),
            {1},
            mentions=("barrier_on_rank0.py", "evaluate_for_ever"),
        )


def test_new_group_called_by_one_rank_only() -> None:
    with launch_ranks("new_group_on_one", 2) as job:
        job.wait_step("initialized", {0, 1})
        job.wait_verdict("group.call_missing", {1}, mentions=("new_group_on_one.py",))


@pytest.mark.parametrize(
    ("case", "operations"),
    [("swapped", ("all_reduce", "broadcast")), ("object", ("all_gather", "barrier"))],
)
def test_ranks_whose_operations_differ(case: str, operations: tuple[str, ...]) -> None:
    with launch_ranks("different_operations", 2, args=(case,)) as job:
        job.wait_step("initialized", {0, 1})
        # Of two ranks that differ neither is the odd one out: both call sites are shown.
        job.wait_verdict(
            "collective.op_mismatch", {0, 1}, mentions=("different_operations.py", *operations)
        )


def test_the_same_where_no_compiled_code_records_the_calls(tmp_path: Path) -> None:
    env = by_python_alone(tmp_path)
    with launch_ranks("different_operations", 2, args=("swapped",), env=env) as job:
        job.wait_step("initialized", {0, 1})
        job.wait_verdict(
            "collective.op_mismatch",
            {0, 1},
            mentions=("different_operations.py", "all_reduce", "broadcast"),
        )
    assert tmp_path.joinpath("used").exists()


def test_one_rank_with_a_batch_more_meets_the_others_barrier() -> None:
    with launch_ranks("uneven_batches", 3) as job:
        job.wait_step("barrier", {0, 2})
        if torch_before(2, 8):  # its recorder leaves gloo's calls from C++ out: nothing counts them
            job.wait_verdict("collective.op_mismatch", {1}, mentions=("barrier", "backward"))
        else:
            job.wait_verdict(
                "collective.count_uneven",
                {1},
                mentions=("barrier", "all_reduce", "4 times", "only 3 times"),
            )
