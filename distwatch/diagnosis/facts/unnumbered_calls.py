"""Calls that nothing counts: C++ makes them (DDP, FSDP, DTensor), and torch's recorder sees gloo's only from 2.8 on.

That a rank waits in one, its stack alone shows.
"""

from __future__ import annotations

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.stack_calls import ASLEEP_S, StackCall, call_by_stack
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.diagnosis.facts.waits import Bundle, Wait
from distwatch.state.model import Process
from distwatch.state.steps import COLLECTIVE

_BUSY_SHARE = 0.1
"""Of the last seconds: threads that run for longer may do what a main thread waits for."""
_COUNTED = ("creation", "p2p")
"""Python makes these calls itself, so that their hooks tell of them."""


def has_unrecorded_groups(job: Job) -> bool:
    """Whether ranks of this world may be in calls that nothing counts."""
    return any(_is_unrecorded(process) for process in job.ranks.values())


def unnumbered_calls(job: Job) -> dict[int, StackCall]:
    """By global rank, such calls in which main threads sleep."""
    if not has_unrecorded_groups(job):
        return {}
    calls = {rank: _unnumbered_call(job, rank, process) for rank, process in job.ranks.items()}
    return {rank: call for rank, call in calls.items() if call is not None}


def unnumbered_waits(job: Job, calls: dict[int, StackCall]) -> list[Bundle]:
    """Who is in such a call waits for those that are in none."""
    outside = tuple(ranks_in_no_call(job)) if calls else ()
    found: list[Bundle] = []
    for rank, call in calls.items():
        process = job.ranks[rank]
        lasted_s = slept_s(process)
        wait = Wait(waited_s=lasted_s, overdue=lasted_s >= limit_s(job, process))
        found.append(
            Bundle(kind="collective", what=str(call), waiters={rank: wait}, awaited=outside)
        )
    return found


def all_wait(job: Job, calls: dict[int, StackCall]) -> bool:
    """Whether each rank of the world is seen to wait, in such a call or in a counted one."""
    waiting = {rank for rank in job.ranks if rank in calls or _is_in_counted_call(job, rank)}
    return len(waiting) == (job.world or 0)


def ranks_in_no_call(job: Job) -> list[int]:
    """The ranks that were looked at and are in no call of torch.distributed, counted or not."""
    return [
        rank
        for rank, process in job.ranks.items()
        if process.main_frames
        and not _is_in_counted_call(job, rank)
        and not is_in_init_by_stack(process)
        and call_by_stack(job, process) is None
    ]


def limit_s(job: Job, process: Process) -> float:
    """How long it may be in a call of one of its groups, whichever that is."""
    groups = [group for group in process.groups.values() if group.destroyed_ns is None]
    timeout_s = min((group.timeout_s for group in groups if group.timeout_s), default=None)
    return job.deadline_s(process, COLLECTIVE, timeout_s)


def slept_s(process: Process) -> float:
    """For how long its main thread has not run at all; 0 where it ran, where other threads work, or nobody looked."""
    sample = process.outside.sample
    flow = sample.flow if sample is not None and process.ended_ns is None else None
    if sample is None or flow is None or not flow.asleep_since_ns or sample.state not in ("S", "D"):
        return 0.0
    works = flow.others.busy_s >= _BUSY_SHARE * flow.over_s
    return 0.0 if works else (flow.at_ns - flow.asleep_since_ns) / 1e9


def _is_unrecorded(process: Process) -> bool:
    confirmed = process.confirmed
    if confirmed is None or not confirmed.unrecorded:
        return False
    backends = [group.backend for group in process.groups.values() if group.destroyed_ns is None]
    return any(name in backend for name in confirmed.unrecorded for backend in backends)


def _unnumbered_call(job: Job, rank: int, process: Process) -> StackCall | None:
    if not _is_unrecorded(process) or not _has_slept_since_look(process):
        return None
    call = None if _is_in_counted_call(job, rank) else call_by_stack(job, process)
    return call if call is not None and call.kind not in _COUNTED else None


def _is_in_counted_call(job: Job, rank: int) -> bool:
    if job.waits_for(rank) or rank in job.peer_waits:
        return True
    # Not a call that has returned and left its work to be waited for: a monitored barrier.
    operations = job.ranks[rank].outside.operations
    return bool(operations) and not operations[-1].left_ns


def _has_slept_since_look(process: Process) -> bool:
    """Whether its stack, which was taken while it slept, is the one that it has now."""
    sample, stack_ns = process.outside.sample, process.outside.stack_ns
    flow = sample.flow if sample is not None else None
    slept = flow is not None and stack_ns is not None and stack_ns >= flow.asleep_since_ns
    return slept and slept_s(process) >= ASLEEP_S
