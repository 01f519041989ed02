"""Ranks that wait for requests, as every engine does that serves: they are idle, and so is who waits for them."""

from __future__ import annotations

from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.stack_calls import call_by_stack, is_seen_from_outside
from distwatch.state.events import Frame
from distwatch.state.model import Process

LISTENS = "listening on"
"""As `probes.descriptors` words it of a socket."""
_WAITS = frozenset("accept accept4 poll ppoll select pselect6 epoll_wait epoll_pwait".split())
_QUEUES = ("/zmq/", "/grpc/", "/uvicorn/", "/pika/", "/kafka/", "/nats/")
"""Libraries through which requests come."""
_FROM_ONE = frozenset(("broadcast", "scatter", "recv"))
"""What hands on from one rank to others: the requests of an engine."""


def idle_ranks(job: Job, groups: list[GroupView]) -> dict[int, str]:
    """Rank → what would wake it. Only of ranks from which others wait to receive."""
    awaited = {
        rank for view in groups if view.in_flight and view.op in _FROM_ONE for rank in view.missing
    }
    awaited |= {rank for wait in job.peer_waits.values() for rank in wait.awaited}
    awaited |= _awaited_by_stack(job)
    found = {rank: awaits_requests(job, rank) for rank in awaited if rank in job.ranks}
    return {rank: what for rank, what in found.items() if what}


def _awaited_by_stack(job: Job) -> set[int]:
    """Of a job without distwatch: the ranks that are in no call, where all others wait to receive."""
    if not is_seen_from_outside(job):
        return set()
    calls = {rank: call_by_stack(job, process) for rank, process in job.ranks.items()}
    names = [call.name for call in calls.values() if call is not None]
    if not names or not all(name.startswith(tuple(_FROM_ONE)) for name in names):
        return set()
    return {rank for rank, call in calls.items() if call is None}


def awaits_requests(job: Job, rank: int) -> str:
    """What a rank's main thread, or the thread that feeds it, waits for requests on; '' where it does not."""
    process = job.ranks[rank]
    if process.ended_ns is not None or job.is_frozen(process):
        return ""
    sample = process.outside.sample
    if sample is not None and sample.syscall in _WAITS and LISTENS in sample.blocked_on:
        return sample.blocked_on
    if library := _request_library(process.main_frames):
        return library
    activity = activity_of(job.state, process)
    if activity is None or activity.kind not in ("queue", "lock"):
        return ""
    return _fed_by(process)


def _fed_by(process: Process) -> str:
    stack = process.outside.stack
    for thread in stack.main_first(process.pid)[1:] if stack else ():
        name = thread.name or f"thread {thread.os_thread_id}"
        if LISTENS in thread.waits_in:
            return f"{thread.waits_in}, in {name}"
        if library := _request_library(thread.frames):
            return f"{library}, in {name}"
    return ""


def _request_library(frames: tuple[Frame, ...]) -> str:
    for frame in frames[-6:]:
        for part in _QUEUES:
            if part in frame.file:
                return f"requests through {part.strip('/')}"
    return ""
