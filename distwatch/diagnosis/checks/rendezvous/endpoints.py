"""rendezvous.endpoint_disagrees: ranks of one job that use different MASTER_ADDR:MASTER_PORT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from distwatch.diagnosis.checks.rendezvous.unreachable import unreachable_ranks
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.endpoints import (
    by_endpoint,
    endpoint_of,
    endpoint_text,
    same_endpoint,
)
from distwatch.diagnosis.facts.init_waits import evidence_of_waiting, overdue_ranks
from distwatch.diagnosis.facts.initializations import holds_world
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_ranks

SETTLED_S = 1.0
_LISTED = 8


Meeting = dict[int, Process]
"""The ranks that wait at one endpoint."""


class EndpointDisagrees:
    """Parts of one world wait at different endpoints."""

    def find(self, case: Case) -> Iterable[Finding]:
        meetings = _meetings(case)
        if len(meetings) < 2 or not _is_one_world(meetings):
            return
        ranks = {rank for meeting in meetings for rank in meeting}
        together = all(rank in ranks for rank in range(case.job.world or 0))
        places = [{endpoint_of(process) for process in meeting.values()} for meeting in meetings]
        certain = all(
            same_endpoint(a, b, case.state) is False
            for one, other in combinations(places, 2)
            for a in one
            for b in other
        )
        settled = all(case.waiting_s(rank) >= SETTLED_S for rank in ranks)
        if not (together and certain and settled) and not (
            overdue_ranks(case) and (together or certain)
        ):
            return
        if not certain and unreachable_ranks(case):
            return  # a name that does not resolve explains the wait
        yield self._finding(case, meetings, certain)

    def _finding(self, case: Case, meetings: list[Meeting], certain: bool) -> Finding:
        most = max(map(len, meetings))
        largest = [meeting for meeting in meetings if len(meeting) == most]
        common = next((meeting for meeting in largest if 0 in meeting), largest[0])
        odd = tuple(sorted(r for meeting in meetings if meeting is not common for r in meeting))
        told = "; ".join(
            f"{name_ranks(meeting)} at {endpoint_text(next(iter(meeting.values())))}"
            for meeting in meetings
        )
        return Finding(
            code="rendezvous.endpoint_disagrees",
            culprit_ranks=odd,
            waiting_ranks=tuple(rank for rank in case.waiting if rank not in odd),
            summary=f"the ranks of one job use different MASTER_ADDR:MASTER_PORT: {told}",
            evidence=(
                *(_evidence(r, p) for m in meetings for r, p in list(m.items())[:_LISTED]),
                *evidence_of_waiting(case),
            ),
            confidence=0.6 if len(largest) > 1 else 0.95 if certain else 0.8,
        )


def _meetings(case: Case) -> list[Meeting]:
    ranks = {rank: case.job.ranks[rank] for rank in case.waiting}
    known = {r: p for r, p in ranks.items() if p.planned is not None and endpoint_of(p).known}
    number = {process.key: rank for rank, process in known.items()}
    return [{number[p.key]: p for p in met} for met in by_endpoint(known.values(), case.state)]


def _is_one_world(meetings: list[Meeting]) -> bool:
    """Whether they are parts of one world, not several worlds with a rank 0 each."""
    plans = [process.planned for meeting in meetings for process in meeting.values()]
    return len({plan.world_size for plan in plans if plan is not None}) == 1


def _evidence(rank: int, process: Process) -> Evidence:
    site = f", called at {process.planned.site}" if process.planned and process.planned.site else ""
    text = (
        f"rank {rank} waits at {endpoint_text(process)} (pid {process.pid} on {process.host}{site})"
    )
    return Evidence("journal", text, rank)


def small_worlds(cases: Sequence[Case]) -> Iterable[Finding]:
    """The same over a whole run: processes that were started together formed separate worlds.

    Each world works, so this is a warning: the launcher says that they were meant to be one.
    """
    worlds = [case for case in cases if case.job.processes and _is_formed(case)]
    yield from _siblings(worlds)
    apart: dict[tuple[int, int], Process] = {}
    for case in worlds:
        for process in case.job.processes:
            place = _launched_as(process)
            if place is not None and (place[1] > (case.job.world or 1)):
                apart.setdefault(place, process)
    sizes = {tasks for _, tasks in apart}
    small = [case for case in worlds if any(p in apart.values() for p in case.job.processes)]
    if len(apart) < 2 or len(small) < 2 or len(sizes) != 1:
        return
    if not all((case.job.world or 1) == 1 or _fills_its_host(case) for case in small):
        return
    (tasks,) = sizes
    each = sorted({case.job.world or 1 for case in small})
    yield Finding(
        code="rendezvous.endpoint_disagrees",
        severity="warning",
        summary=f"{len(small)} small worlds of {', '.join(map(str, each))} rank{'s' if each != [1] else ''} "
        f"formed, but the launcher started {tasks} processes as one job: each world works by itself",
        advice="Give every process RANK, WORLD_SIZE and the same MASTER_ADDR and MASTER_PORT "
        "(under Slurm: from SLURM_PROCID, SLURM_NTASKS and the first node), or start them with torchrun.",
        evidence=tuple(
            Evidence(
                "journal",
                f"pid {process.pid} on {process.host} was started as {task} of {count}, but is "
                f"rank {process.global_rank} of {process.world_size} at "
                f"{endpoint_text(process) or 'an endpoint of its own'}",
            )
            for (task, count), process in sorted(apart.items())[:_LISTED]
        ),
        confidence=0.6,
    )


def _siblings(worlds: Sequence[Case]) -> Iterable[Finding]:
    """Processes of one program and one parent, each told RANK=0 and WORLD_SIZE=1: a launcher's mistake, or meant."""
    alike: dict[tuple[str, int, tuple[str, ...]], list[Process]] = {}
    for case in worlds:
        process = case.job.ranks.get(0)
        started = process.started if process is not None else None
        identity = process.identity if process is not None else None
        if process is None or started is None or identity is None or identity.launcher != "env":
            continue
        if (case.job.world, identity.global_rank, identity.world_size) == (1, 0, 1):
            key = (process.host, started.ppid, started.command[:2])
            alike.setdefault(key, []).append(process)
    for (host, ppid, command), found in alike.items():
        if len(found) < 2 or not _lived_together(found):
            continue
        yield Finding(
            code="rendezvous.endpoint_disagrees",
            severity="warning",
            summary=f"{len(found)} small worlds of 1 rank formed: pid {ppid} on {host} started {len(found)} "
            f"processes of {' '.join(command) or 'one program'}, and told each RANK=0 and WORLD_SIZE=1",
            advice="If they are meant as one job, give every process its own RANK, WORLD_SIZE "
            f"{len(found)} and the same MASTER_ADDR and MASTER_PORT, or start them with torchrun.",
            evidence=tuple(
                Evidence("journal", f"pid {process.pid}: rank 0 of 1 at {endpoint_text(process)}")
                for process in found[:_LISTED]
            ),
            confidence=0.4,
        )


def _lived_together(found: list[Process]) -> bool:
    """Whether all were alive at some time: runs one after the other are meant."""
    ends = [process.ended_ns for process in found if process.ended_ns is not None]
    return max(p.started_ns or 0 for p in found) < min(ends, default=1 << 63)


def _is_formed(case: Case) -> bool:
    return all(holds_world(process) for process in case.job.ranks.values())


def _launched_as(process: Process) -> tuple[int, int] | None:
    """Its number and the number of processes by its launcher, whatever it then planned."""
    identity = process.identity
    if identity.tasks is not None and identity.task is not None:
        return identity.task, identity.tasks
    # Ray and plain environments give each process the world that it is meant to have.
    told = identity.launcher not in ("ray", "env", "unknown")
    if told and identity.global_rank is not None and identity.world_size is not None:
        return identity.global_rank, identity.world_size
    return None


def _fills_its_host(case: Case) -> bool:
    """Whether it is the world of one node, with all ranks there: `--nnodes 1` on each node makes it."""
    hosts = {process.host for process in case.job.ranks.values()}
    return len(hosts) == 1 and all(p.identity.single_node for p in case.job.ranks.values())
