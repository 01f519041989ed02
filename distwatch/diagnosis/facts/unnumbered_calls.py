"""Calls that nothing counts: C++ makes them (DDP, FSDP, DTensor), and torch's recorder sees gloo's only from 2.8 on.

That a rank waits in one, its stack alone shows.
"""

from __future__ import annotations

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.stack_calls import STILL_S, StackCall, call_by_stack, waited_s
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.diagnosis.facts.wait_for import Bundle, Wait
from distwatch.state.model import Process
from distwatch.state.steps import COLLECTIVE

_IDLE_SHARE = 0.1
"""Of the last seconds: for so long a main thread that waits may have run."""
SETTLED_S = 2.0
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
        overdue = waited_s(process) >= limit_s(job, process)
        wait = Wait(waited_s=lasted_s(process), overdue=overdue)
        found.append(
            Bundle(kind="collective", what=str(call), waiters={rank: wait}, awaited=outside)
        )
    return found


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
    """For how many of the last seconds it is known to have slept; 0 where it ran, or nobody looked."""
    sample = process.outside.sample
    flow = sample.flow if sample is not None else None
    return flow.over_s if flow is not None and _is_idle(process) else 0.0


def lasted_s(process: Process) -> float:
    """For how long it is known to have waited where it is."""
    return max(waited_s(process), slept_s(process))


def _is_unrecorded(process: Process) -> bool:
    confirmed = process.confirmed
    if confirmed is None or not confirmed.unrecorded:
        return False
    backends = [group.backend for group in process.groups.values() if group.destroyed_ns is None]
    return any(name in backend for name in confirmed.unrecorded for backend in backends)


def _unnumbered_call(job: Job, rank: int, process: Process) -> StackCall | None:
    if process.ended_ns is not None or not _is_unrecorded(process) or not _is_idle(process):
        return None
    if _is_in_counted_call(job, rank) or not _has_slept_since_look(process):
        return None
    call = call_by_stack(job, process)
    return call if call is not None and call.kind not in _COUNTED else None


def _is_in_counted_call(job: Job, rank: int) -> bool:
    if job.waits_for(rank) or rank in job.peer_waits:
        return True
    # Not a call that has returned and left its work to be waited for: a monitored barrier.
    operations = job.ranks[rank].outside.operations
    return bool(operations) and not operations[-1].left_ns


def _is_idle(process: Process) -> bool:
    """Whether neither its main thread nor one that it may have handed its work to has run lately."""
    sample = process.outside.sample
    flow = sample.flow if sample is not None else None
    if sample is None or flow is None or flow.over_s <= 0 or sample.state not in "SD":
        return False
    return max(flow.cpu_s, flow.others.busy_s) < _IDLE_SHARE * flow.over_s


def _has_slept_since_look(process: Process) -> bool:
    """Whether its stack is the one that it has now: two looks say so, or it has slept from before the last one on."""
    if waited_s(process) >= STILL_S:
        return True
    sample = process.outside.sample
    flow = sample.flow if sample is not None else None
    if flow is None or process.outside.stack_ns is None:
        return False
    slept_since_ns = flow.at_ns - int(flow.over_s * 1e9)
    return flow.over_s >= SETTLED_S and slept_since_ns <= process.outside.stack_ns <= flow.at_ns
