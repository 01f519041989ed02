"""The monitored barriers that ranks are in."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.facts.barrier_calls import MONITORED
from distwatch.diagnosis.facts.collective_wait import Wait
from distwatch.diagnosis.facts.job import GroupKey, Job
from distwatch.state.model import Group


class MonitoredBarrier(msgspec.Struct, frozen=True, kw_only=True):
    """One group's monitored barrier that some members are in, or that failed for them."""

    group: Group
    waits: dict[int, Wait]
    """By global rank, of those who are in it."""

    @property
    def missing(self) -> tuple[int, ...]:
        """The members that are not in it."""
        return tuple(rank for rank in self.group.members if rank not in self.waits)

    @property
    def call(self) -> str:
        """`monitored_barrier of default_pg`."""
        return f"{MONITORED} of {self.group.pg_desc or self.group.pg_name}"


def monitored_barriers(job: Job) -> list[MonitoredBarrier]:
    """All that some rank is in; a group has one at a time, as nobody leaves it before all have come."""
    found: dict[GroupKey, MonitoredBarrier] = {}
    for wait in job.waits:
        if wait.op == MONITORED:
            group = job.ranks[wait.global_rank].groups[wait.pg_name]
            key = job.group_key(wait.pg_name, wait.members)
            barrier = found.setdefault(key, MonitoredBarrier(group=group, waits={}))
            barrier.waits[wait.global_rank] = wait
    return list(found.values())
