"""A root judges ten thousand ranks: what that takes grows as they do, and not with their square."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import distwatch
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from tests.diagnosis.recorded import READING, WAITING, RecordedJob, hung_job
from tests.diagnosis.test_calm import training_job
from tests.diagnosis.test_monitored_barriers import job_in_barrier

FEW, MANY = 48, 192
SLACK = 1.5
PACKAGE = str(Path(distwatch.__file__).parent)
Lines = Counter[tuple[str, int]]


def arriving_job(world: int) -> RecordedJob:
    """All but rank 0 wait for it in the initialization."""
    job = RecordedJob(world)
    job.enter(*range(1, world))
    job.start(0)
    job.tick(60)
    return job


def half_started_job(world: int) -> RecordedJob:
    """Half of the ranks wait for the other half, which nobody has started."""
    job = RecordedJob(world)
    job.enter(*range(world // 2))
    job.tick(60)
    return job


def _in_recvs(world: int, peer_of: Callable[[int], int]) -> RecordedJob:
    job = RecordedJob(world)
    job.initialize(*range(world))
    for rank in range(world):
        recv = job.peer(rank, "recv", peer_of(rank), at=10, posted=1)
        job.pulse(rank, at=40, operations=(recv,))
        job.sample(rank, 40, "S")
        job.stack(rank, 40, WAITING)
    job.tick(41)
    return job


def ring_job(world: int) -> RecordedJob:
    """Each rank waits for the one before it."""
    return _in_recvs(world, lambda rank: (rank - 1) % world)


def pairs_job(world: int) -> RecordedJob:
    """Each two ranks wait for each other."""
    return _in_recvs(world, lambda rank: rank ^ 1)


def grid_job(world: int, size: int = 8) -> RecordedJob:
    """Of each group of eight, one rank does not come."""
    job = RecordedJob(world)
    job.initialize(*range(world))
    for rank in range(world):
        first = rank - rank % size
        name, is_away = f"tp{first}", rank == first + 3
        job.hold(rank, name, tuple(range(first, first + size)), desc="tp", at=2.0)
        inside = job.operation(rank, "allreduce", 5, at=10, pg_name=name)
        own = (4, 4, 9.0) if is_away else (5, 4, 10.0)
        called = () if is_away else (inside,)
        job.pulse(rank, at=40, groups={"0": (1, 1, 4.0), name: own}, operations=called)
        job.stack(rank, 40, READING if is_away else WAITING)
        job.sample(rank, 40, "S")
    job.tick(41)
    return job


def barrier_job(world: int) -> RecordedJob:
    """All but three are in a monitored_barrier."""
    return job_in_barrier(world, *range(world - 3))


def judge(job: RecordedJob) -> None:
    diagnose(cases_of(job.state))


def lines_of(do: Callable[[], object], of: str = PACKAGE) -> Lines:
    """How often each line of some files is come to; a comprehension comes to its own for each element."""
    found: Lines = Counter()

    def come(frame: FrameType, event: str, argument: Any) -> Any:
        if event in ("call", "line"):
            found[frame.f_code.co_filename, frame.f_lineno] += 1
        return come

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return come if frame.f_code.co_filename.startswith(of) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        do()
    finally:
        sys.settrace(before)
    return found


def too_often(few: Lines, many: Lines) -> Iterator[str]:
    """The lines that grow faster than the ranks; what all ranks together do once or twice is none."""
    for place, times in many.items():
        if times > SLACK * MANY / FEW * few[place] + 2 * MANY:
            yield f"{place[0].removeprefix(PACKAGE)}:{place[1]}: {few[place]} times, then {times}"


@pytest.mark.parametrize(
    "job",
    [
        training_job, hung_job, arriving_job, half_started_job, ring_job, pairs_job, grid_job, barrier_job,
    ],
)  # fmt: skip
def test_judging_grows_with_the_ranks_alone(job: Callable[[int], RecordedJob]) -> None:
    judge(job(FEW))  # fills the caches
    few, many = (lines_of(partial(judge, job(world))) for world in (FEW, MANY))
    assert not list(too_often(few, many))


def test_a_comprehension_that_is_quadratic_is_seen() -> None:
    def linear(ranks: int) -> list[int]:
        return [rank for _ in range(4) for rank in range(ranks)]

    def quadratic(ranks: int) -> list[int]:
        return [rank for rank in range(ranks) for other in range(ranks) if rank == other]

    for does, seen in ((linear, False), (quadratic, True)):
        few, many = (lines_of(partial(does, ranks), of=__file__) for ranks in (FEW, MANY))
        assert any(too_often(few, many)) is seen
