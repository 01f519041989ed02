"""The deadline that passes next among what ranks are in."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from distwatch.diagnosis.facts.case import Case
from distwatch.state.steps import COLLECTIVE, LOAD, kind_of


class Deadline(NamedTuple):
    """A limit that has not passed yet. `kind`: its key in DISTWATCH_DEADLINES."""

    in_s: float
    kind: str
    limit_s: float


def next_deadline(case: Case, ranks: Container[int]) -> Deadline | None:
    """The first to pass of the steps, collectives, sends and recvs that these ranks are in."""
    ahead: Iterable[Deadline] = (due for due in _deadlines(case, ranks) if due.in_s > 0)
    return min(ahead, default=None)


def _deadlines(case: Case, ranks: Container[int]) -> Iterator[Deadline]:
    job = case.job
    for wait in job.waits:
        if wait.global_rank in ranks:
            yield Deadline(wait.deadline_s - wait.waited_s, COLLECTIVE.name, wait.deadline_s)
    for rank, peer in job.peer_waits.items():
        if rank in ranks:
            limit_s = job.deadline_s(job.ranks[rank], COLLECTIVE)
            yield Deadline(limit_s - job.peer_waited_s(peer), COLLECTIVE.name, limit_s)
    for rank, process in job.ranks.items():
        for step in process.open_steps() if rank in ranks else ():
            if kind := kind_of(step.name):
                limit_s = job.limit_s(process, step, kind)
                since_ns = step.moved_ns if kind is LOAD else step.started_ns
                yield Deadline(limit_s - job.age_s(process, since_ns), kind.name, limit_s)
