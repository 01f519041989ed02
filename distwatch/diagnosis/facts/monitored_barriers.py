"""Who is in a monitored_barrier: gloo gives it no number, so neither a recorder nor a pulse counts it."""

from __future__ import annotations

import re
from collections.abc import Collection

from distwatch.diagnosis.facts.job import Job
from distwatch.state.events import Operation
from distwatch.state.model import Process

_OP = "monitored_barrier"
_FAILED = re.compile(r"(?i)failed to pass monitoredBarrier|monitoredBarrier (?:timed out|failed)")


def unfinished_barrier(process: Process) -> Operation | None:
    """The monitored barrier that a process is in, or that was its last call and failed."""
    operations = process.outside.operations
    newest = operations[-1] if operations else None
    if newest is None or newest.op != _OP:
        return None
    failed = process.exception is not None and _FAILED.search(process.exception.message)
    return newest if not newest.left_ns or failed else None


def in_barriers_with(job: Job, ranks: Collection[int]) -> set[int]:
    """The ranks that are in one of a group to which one of these belongs, which is not in it."""
    found = set()
    for rank, process in job.ranks.items():
        barrier = unfinished_barrier(process) if rank not in ranks else None
        group = process.groups.get(barrier.pg_name) if barrier is not None else None
        if group is not None and not set(ranks).isdisjoint(group.members):
            found.add(rank)
    return found
