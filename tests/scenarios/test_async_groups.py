"""Asynchronous work on several groups at once: what one rank does not do holds up calls of other groups, too."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.support.ranks import torchrun

RANKS = {0, 1, 2, 3}
FAULTS = [
    ("stop", ("process.data_stall",), "read_next_shard"),
    ("dead", ("process.killed",), ""),
    ("skip", ("collective.cycle", "collective.rank_missing", "collective.count_uneven"), ""),
]


@pytest.mark.parametrize(("fault", "codes", "mentions"), FAULTS)
def test_the_rank_at_fault_comes_first_and_no_rank_that_waits_for_it(
    fault: str, codes: tuple[str, ...], mentions: str
) -> None:
    with torchrun("async_groups", 4, args=(fault,)) as job:
        job.wait_step("stalled", {2})
        job.wait_verdict(codes, {2}, mentions=(mentions,) if mentions else ())


def test_nothing_is_said_of_a_job_that_goes_on() -> None:
    with torchrun("async_groups", 4, args=("none",)) as job:
        job.wait_step("gate end", RANKS)
        job.wait_ticks(3)
        assert diagnose(job.state()) == []
        for rank in RANKS:
            job.open_gate("end", rank)
        assert job.wait_ended() == [0]
