"""all_to_all whose lists do not fit: who gives whom what, and who expects something else."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.state.splits import Splits
from tests.diagnosis.recorded import SECOND, RecordedJob, judged, only_root

Lists = dict[int, tuple[tuple[int, ...], tuple[int, ...]]]


def stuck_job(lists: Lists, *, aborted: int | None = None) -> RecordedJob:
    """All are in all_to_all #2; `lists`: what each rank gives and takes."""
    job = RecordedJob(len(lists))
    job.initialize(*lists)
    for rank, (given, taken) in lists.items():
        call = ev.Operation(
            number=1, op="alltoall_base", pg_name="0", seq=2, numel=sum(taken), dtype="float32", entered_ns=6 * SECOND,
            splits=Splits(given=given, taken=taken, given_total=sum(given), taken_total=sum(taken)),
        )  # fmt: skip
        job.pulse(
            rank,
            at=6.5 if rank == aborted else 400.0,
            groups={"0": (2, 1, 6.0)},
            operations=(call,),
        )
    if aborted is not None:
        job.exit(aborted, 7.0, signal=6)
    job.tick(400.0)
    return job


@pytest.mark.parametrize("aborted", [None, 1])
def test_of_two_ranks_both_are_named_with_both_lists(aborted: int | None) -> None:
    job = stuck_job({0: ((3, 3), (3, 2)), 1: ((2, 4), (2, 4))}, aborted=aborted)
    finding = only_root(job, "collective.shape_mismatch", 0, 1)
    assert "rank 0 gives 3 elements to rank 1, which expects 2" in finding.summary
    texts = [one.text for one in finding.evidence]
    assert "rank 0 gives [3, 3] and takes [3, 2] elements" in texts
    assert "rank 1 gives [2, 4] and takes [2, 4] elements" in texts


def test_the_rank_that_fits_with_nobody_is_at_fault() -> None:
    lists: Lists = dict.fromkeys(range(3), ((2, 2, 2), (2, 2, 2)))
    lists[2] = ((3, 3, 2), (2, 2, 2))
    only_root(stuck_job(lists), "collective.shape_mismatch", 2)


def test_two_of_many_whose_lists_do_not_fit() -> None:
    lists: Lists = dict.fromkeys(range(3), ((2, 2, 2), (2, 2, 2)))
    lists[1] = ((2, 2, 5), (2, 2, 2))
    only_root(stuck_job(lists), "collective.shape_mismatch", 1, 2)


def test_lists_that_fit_are_no_mismatch() -> None:
    job = stuck_job({0: ((3, 1), (3, 2)), 1: ((2, 4), (1, 4))})
    assert not [one for one in judged(job) if one.code == "collective.shape_mismatch"]
