"""Ranks that ended by themselves, and ranks that ended only because another was gone."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.facts.communication import is_init_symptom, tells_of_lost_peer
from distwatch.diagnosis.facts.exception_origins import told_by_others
from distwatch.diagnosis.facts.failures import error_line, is_own_failure
from distwatch.diagnosis.facts.initializations import newest_init
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.ray_view import RayView
from distwatch.diagnosis.facts.signals import SIGKILL, TEARDOWN
from distwatch.state.events import GAVE_UP
from distwatch.state.model import Process

AT_ONCE_S = 2.0
ONE_LOOK_S = 0.1
SEEN_LATE_S = 1.0
"""An end is noticed when an observer looks; a peer's exception about it has an exact time."""


class Deaths(msgspec.Struct, frozen=True, kw_only=True):
    """The ended ranks of a job, by the kind of their end."""

    own: dict[int, Process] = {}
    """Ended by their own failure, or by a signal that nothing else explains."""
    victims: dict[int, Process] = {}
    """Ended because a peer was gone, or were ended by the launcher after a failure."""
    clean: dict[int, Process] = {}
    """Ended normally."""
    stopped_from_outside: bool = False
    """A signal ended every rank at once: somebody or something ended the job."""


def death_ns(process: Process) -> int:
    """When its end began, as it reported; else when it was seen gone."""
    ends = [process.exception_ns, process.ending_ns, process.ended_ns]
    return min((ns for ns in ends if ns is not None), default=0)


def signalled_ns(process: Process) -> int:
    """The same, of processes that signals ended: of ends that one look finds, a SIGKILL counts as the first.

    Who asks others to end because one was killed does so within milliseconds; who kills what does not end
    by itself waits for longer.
    """
    is_killed = ending_signal(process) == SIGKILL
    return death_ns(process) - (int(ONE_LOOK_S * 1e9) if is_killed else 0)


def ended_before(process: Process, ns: int, late_s: float = SEEN_LATE_S) -> bool:
    """Whether it ended first, given that an end without a report may be noticed late."""
    told = process.exception_ns is not None or process.ending_ns is not None
    return death_ns(process) - (0 if told else int(late_s * 1e9)) < ns


def deaths_of(job: Job) -> Deaths:
    """Sorts the ended ranks. Times are compared only within one host, by their order."""
    failed = {
        r: p for r, p in job.ranks.items() if p.exception is not None or p.ended_ns is not None
    }
    clean = {r: p for r, p in failed.items() if _ended_well(p, job.ray)}
    ended = {r: p for r, p in failed.items() if r not in clean}
    told = told_by_others(ended, job.world)
    peers_lost = {r: p for r, p in ended.items() if r in told or _lost_a_peer(job, r, p)}
    signalled = {
        r: p
        for r, p in ended.items()
        if r not in peers_lost and (ending_signal(p) in TEARDOWN or _is_unexplained(p))
    }
    own = {r: p for r, p in ended.items() if r not in peers_lost and r not in signalled}
    first = min((death_ns(p) for p in [*own.values(), *peers_lost.values()]), default=None)
    # A launcher ends the other ranks with SIGTERM or SIGKILL once one has failed.
    # Where ranks report only a lost peer, the rank with a SIGKILL seen just after is that peer.
    late_s = {SIGKILL: 0.0 if own else SEEN_LATE_S}
    own |= {
        r: p
        for r, p in signalled.items()
        if first is None or ended_before(p, first, late_s.get(ending_signal(p) or 0, 0.0))
    }
    own = _first_killed(own, signalled)
    victims = {r: p for r, p in ended.items() if r not in own}
    return Deaths(
        own=own, victims=victims, clean=clean, stopped_from_outside=_all_signalled(job, own)
    )


def _gave_up(process: Process) -> bool:
    if process.outside.aborted is not None:
        return True
    return process.ending is not None and process.ending.reason.startswith(GAVE_UP)


def _lost_a_peer(job: Job, global_rank: int, process: Process) -> bool:
    if _gave_up(process):
        return True
    if process.exception is not None:
        return tells_of_lost_peer(process.exception) or _gave_up_waiting(process)
    # NCCL's watchdog aborts its process when a collective times out.
    aborted = ending_signal(process) == 6
    return aborted and any(wait.overdue for wait in job.waits_for(global_rank))


def _gave_up_waiting(process: Process) -> bool:
    """Whether its initialization ended with an error that elsewhere would say too little."""
    step = newest_init(process)
    if step is None or process.initialized or is_own_failure(process, step):
        return False
    told = (step.error or "")[:200]
    return bool(told) and error_line(process).startswith(told) and is_init_symptom(told)


def _first_killed(own: dict[int, Process], signalled: dict[int, Process]) -> dict[int, Process]:
    """Where signals ended several ranks, a SIGTERM after another rank's death is teardown."""
    if not own or set(own) - set(signalled):
        return own
    first = min(map(signalled_ns, own.values()))
    killed_first = any(
        (ending_signal(p) == SIGKILL or _is_unexplained(p)) and signalled_ns(p) == first
        for p in own.values()
    )
    return {
        r: p
        for r, p in own.items()
        if not (killed_first and ending_signal(p) == 15 and death_ns(p) > first)
    }


def _all_signalled(job: Job, own: dict[int, Process]) -> bool:
    ranks = [process for rank, process in job.ranks.items() if rank not in job.unwatched]
    if len(own) < len(ranks) or not ranks or any(ending_signal(p) not in TEARDOWN for p in ranks):
        return False
    times = [death_ns(p) for p in ranks]
    return (max(times) - min(times)) / 1e9 <= AT_ONCE_S


def ending_signal(process: Process) -> int | None:
    """The signal that ended it, Ctrl-C included, although Python turns that into an exception.

    Any other exception that left the main thread came first: a signal that arrived while the process
    was ending only finished it.
    """
    if process.exception is not None:
        return 2 if process.exception.type_name == "KeyboardInterrupt" else None
    seen = process.outside.exit
    return seen.signal if seen else None


def _is_unexplained(process: Process) -> bool:
    """Whether it is gone and nothing says why: a launcher's signal may have ended it."""
    seen = process.outside.exit
    return process.exception is None and bool(
        seen and seen.exit_code is None and seen.signal is None
    )


def is_oom_killed(process: Process) -> bool:
    """Whether the kernel killed it for lack of memory, by the kernel's or the cgroup's word."""
    return bool(process.outside.exit and process.outside.exit.oom_killed)


def _ended_well(process: Process, ray: RayView) -> bool:
    seen = process.outside.exit
    if process.exception is not None or seen is None or _gave_up(process):
        return False
    if seen.exit_code is None and seen.signal is None:
        # Nobody saw the status, but a normal interpreter exit is in the journal.
        return process.ending is not None
    return seen.exit_code == 0 or ended_by_ray(process, ray)


def ended_by_ray(process: Process, ray: RayView) -> bool:
    """Whether Ray ended its worker: Ray ends workers that it no longer needs with code 1.

    An exception in an actor's method ends no process. Ray's own reason decides, where Ray was asked;
    otherwise a process that ends inside one of our steps, or that others still need, was not ended
    by Ray.
    """
    seen = process.outside.exit
    if process.worker is None or seen is None or process.exception is not None:
        return False
    if seen.exit_code != 1:
        return False
    row = ray.own_row(process)
    if row is not None and row.state == "DEAD":
        return not row.failed
    return not process.open_steps()
