"""The ranks that have not come to an initialization in which others wait."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.claims import duplicates, out_of_range
from distwatch.diagnosis.facts.communication import has_timed_out, is_init_symptom
from distwatch.diagnosis.facts.deaths import death_ns, ending_signal
from distwatch.diagnosis.facts.init_waits import arrived_by_store
from distwatch.diagnosis.facts.initializations import holds_world, newest_init, number_of
from distwatch.state.model import Process


class Absence(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks of a world that have not come to its initialization, by what was seen of them."""

    number: int = 1
    """The number of the initialization in which the others wait, counted from 1 in each process."""
    died: tuple[int, ...] = ()
    elsewhere: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    """They came only after another rank had given up."""

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted((*self.died, *self.elsewhere, *self.unseen, *self.late)))


def absence_of(case: Case) -> Absence:
    """The ranks that are missing where others wait; none where no rank waits."""
    if not case.waiting or case.job.world is None:
        return Absence()
    # Numbers may differ where a process had a world of its own before: a rank that may have come counts.
    number = min(number_of(case.job.ranks[rank]) for rank in case.waiting)
    come = arrived_by_store(case, number)
    absent = [
        rank
        for rank in range(_smallest_world(case))
        if rank not in come and not _has_come(case, rank, number)
    ]
    died = [rank for rank in absent if _has_ended(case, rank)]
    return Absence(
        number=number,
        died=tuple(died),
        elsewhere=tuple(r for r in absent if r in case.job.ranks and r not in died),
        unseen=tuple(rank for rank in absent if rank not in case.job.ranks),
        late=tuple(rank for rank in _late(case) if rank not in absent),
    )


def first_to_give_up(case: Case) -> dict[int, int]:
    """By number of the initialization, when the first rank gave up in it (wall ns)."""
    ends: dict[int, int] = {}
    for rank, step in case.waiting.items():
        if step.ended_ns is not None and has_timed_out(step.error or ""):
            process = case.job.ranks[rank]
            number, at_ns = number_of(process), case.job.wall_ns(process, step.ended_ns)
            ends[number] = min(at_ns, ends.get(number, at_ns))
    return ends


def _late(case: Case) -> list[int]:
    late, over = [], first_to_give_up(case)
    for rank, process in case.job.ranks.items():
        step, over_ns = newest_init(process), over.get(number_of(process))
        if step is None or over_ns is None or process.planned is None:
            continue
        if case.job.wall_ns(process, step.started_ns) > over_ns:
            late.append(rank)
    return late


def lost_host(case: Case) -> Process | None:
    """Rank 0, where it hosted the store and ended by itself while others still needed it."""
    host = case.job.ranks.get(0)
    if host is None or host.planned is None or not host.planned.hosts_store or not case.waiting:
        return None
    if host.ended_ns is None and host.exception is None:
        return None
    if 0 in case.waiting or 0 in case.deaths.victims or case.deaths.stopped_from_outside:
        return None
    own = any(failure.process is host for failure in case.failures)
    # Where two processes claim one rank, one of them waits after the others have met and left.
    return None if own or duplicates(case) else host


def since_loss_s(case: Case) -> float:
    """For how long this world has been unable to form, because one of its ranks ended by itself.

    A rank whose deadline had not passed by then has kept nobody waiting.
    """
    if case.deaths.stopped_from_outside:
        return 0.0
    gone = [failure.process for failure in case.failures if failure.uncaught]
    gone += [process for process in case.deaths.own.values() if not holds_world(process)]
    if (host := lost_host(case)) is not None:
        gone.append(host)
    return max((since_s(case, process) for process in gone), default=0.0)


def since_s(case: Case, ended: Process) -> float:
    """Seconds since the process ended, by the newest time of its host."""
    host = case.state.hosts.get(ended.host)
    return max(0.0, ((host.now_ns if host else 0) - death_ns(ended)) / 1e9)


def _smallest_world(case: Case) -> int:
    """Ranks that exist only in one rank's idea of the world are not missing."""
    odd = out_of_range(case)
    plans = [case.job.ranks[r].planned for r in case.waiting if r not in odd]
    sizes = [plan.world_size for plan in plans if plan is not None and plan.world_size]
    return min([case.job.world or 0, *sizes])


def _has_come(case: Case, rank: int, number: int) -> bool:
    process = case.job.ranks.get(rank)
    if rank in case.waiting:
        return True
    if process is not None and gave_up(case, rank, process):
        return False
    return case.job.has_arrived(rank, number)


def gave_up(case: Case, rank: int, process: Process) -> bool:
    """Its own initialization failed for a reason that no finding explains, and it continued."""
    step = newest_init(process)
    if step is None or not step.error or process.initialized or process.exception is not None:
        return False
    known = any(failure.process is process for failure in case.failures)
    return not known and rank not in case.deaths.own and not is_init_symptom(step.error)


def _has_ended(case: Case, rank: int) -> bool:
    """Whether it ended by itself. A rank that was ended with the others was elsewhere until then."""
    process = case.job.ranks.get(rank)
    if process is None or gave_up(case, rank, process):
        return False
    cleared = rank in case.deaths.victims or case.deaths.stopped_from_outside
    if cleared and ending_signal(process) is not None:
        return False
    return process.ended_ns is not None or process.exception is not None
