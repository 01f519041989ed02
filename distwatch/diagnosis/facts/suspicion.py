"""When a job is worth a closer look, well before any deadline."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.training import overlong_step
from distwatch.diagnosis.facts.unnumbered_calls import has_unrecorded_groups, slept_s
from distwatch.diagnosis.facts.worlds import is_lone_program
from distwatch.state.steps import COLLECTIVE

SUSPICIOUS_AFTER_S = 5.0
UNLIKE_AFTER_S = 1.0
DEADLINE_SHARE = 0.5
"""A short deadline must not pass before an observer has looked."""


def suspicion_of(job: Job, groups: Iterable[GroupView], share: float = 1.0) -> str:
    """Why stacks of a world should be taken now, in a clause; '' where everything moves.

    Args:
        groups: of that world.
        share: of the usual patience.
    """
    # First what is told already: the other questions take long where there are very many ranks.
    for wait in job.waits:
        if (
            wait.waited_s > share * _patience_s(wait.deadline_s)
            and job.ranks[wait.global_rank].ended_ns is None
        ):
            return f"rank {wait.global_rank} waits in {wait.call} of group {wait.pg_name}"
    is_uncounted = has_unrecorded_groups(job)
    for global_rank, process in job.ranks.items():
        if process.ended_ns is not None:
            continue
        if job.is_frozen(process) or job.kernel_state(process) == "T":
            return f"rank {global_rank} has no heartbeat"
        if is_lone_program(process) and job.kernel_state(process) == "S":
            return f"the program with pid {process.pid}, which reports nothing itself, waits"
        over_ns = process.main_ended_ns or process.ending_ns
        deadline_s = job.deadline_s(process, COLLECTIVE)
        if over_ns is not None and job.age_s(process, over_ns) > share * _patience_s(deadline_s):
            return f"rank {global_rank} has come to its end and has not ended"
        if is_uncounted and slept_s(process) > share * _patience_s(deadline_s):
            return f"rank {global_rank} sleeps, maybe in a call that nothing counts"
        step = job.innermost_step(process)
        if step is not None and job.age_s(process, step.moved_ns) > share * _patience_s(
            step.deadline_s
        ):
            return f"rank {global_rank} has been in {step.name} without progress"
    for rank, peer in job.peer_waits.items():
        deadline_s = job.deadline_s(job.ranks[rank], COLLECTIVE)
        if (
            job.peer_waited_s(peer) > share * _patience_s(deadline_s)
            and job.ranks[rank].ended_ns is None
        ):
            return f"rank {rank} waits in {peer}"
    if overlong := overlong_step(job):
        return str(overlong)
    return _unlike_calls(job, groups)


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """When a wait of some rank of a host becomes suspicious or overdue."""

    at_ns: int
    """By the host's own clock."""
    in_s: float
    """From the newest that is known of that host."""


def next_limits(job: Job) -> dict[str, Limit]:
    """By host, the next limit that waits of its ranks pass; of hosts without such waits nothing.

    The first wait that passes a limit makes the difference: of the others, that limit is none any more.
    """
    found: dict[str, Limit] = {}
    waits = [wait for wait in job.waits if job.ranks[wait.global_rank].ended_ns is None]
    if any(wait.overdue for wait in waits):
        return found
    is_suspicious = any(wait.waited_s > _patience_s(wait.deadline_s) for wait in waits)
    for wait in waits:
        process = job.ranks[wait.global_rank]
        limit_s = wait.deadline_s if is_suspicious else _patience_s(wait.deadline_s)
        left_s, known = limit_s - wait.waited_s, found.get(process.host)
        if left_s > 0 and (known is None or left_s < known.in_s):
            at_ns = job.now_ns(process) + int(left_s * 1e9)
            found[process.host] = Limit(at_ns=at_ns, in_s=left_s)
    return found


def _unlike_calls(job: Job, groups: Iterable[GroupView]) -> str:
    """All have entered, some from Python and some from elsewhere, and it does not complete.

    Where the calls are equal, they come from one place: this difference is worth a recorder dump at once.
    """
    for view in groups:
        if not view.in_flight or view.missing or view.waited_s < UNLIKE_AFTER_S:
            continue
        known = [job.operation(rank, view.pg_name, view.seq) is not None for rank in view.members]
        if any(known) and not all(known):
            return f"{view.title} does not complete #{view.seq}, which not all called from Python"
    return ""


def _patience_s(deadline_s: float | None) -> float:
    return min(SUSPICIOUS_AFTER_S, DEADLINE_SHARE * (deadline_s or SUSPICIOUS_AFTER_S * 2))
