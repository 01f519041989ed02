"""collective.rank_missing in a process group beside the default one, whose members may be of several worlds.

As in weight sync from a trainer to engines: each world of the run is a job of its own to the other checks.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.rendezvous.extra_process_groups import (
    Meeting,
    meeting_of,
    named,
    ranks_here,
)
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.worlds import worlds_of
from distwatch.state.events import GroupProgress
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.steps import COLLECTIVE

_LISTED = 8


class Standstill(msgspec.Struct, frozen=True, kw_only=True):
    """A collective of such a group that some members are in, and others are not."""

    meeting: Meeting
    seq: int
    inside: list[Process]
    outside: list[Process]
    waited_s: float


class ExtraGroupIncomplete:
    """Looks at the groups that all members have joined, by the newest pulse of each member."""

    def find(self, case: Case) -> Iterable[Finding]:
        seen: set[tuple[str, str, int]] = set()
        for world in worlds_of(case.state) if _has_any(case) else ():
            for process in world:
                for standstill in _standstills(case, process, seen):
                    # Of several worlds, the one with the culprits reports it.
                    if owners := ranks_here(case, standstill.outside):
                        yield _finding(case, standstill, owners)


def _has_any(case: Case) -> bool:
    return any(process.extra_groups for process in case.state.processes.values())


def _standstills(
    case: Case, process: Process, seen: set[tuple[str, str, int]]
) -> Iterable[Standstill]:
    """Collectives that this process waits in beyond its deadline, but for those that were `seen`."""
    for joined in process.extra_groups.values():
        mine = _progress(process, joined.name)
        if mine is None or mine.enqueued <= max(mine.completed, 0):
            continue
        waited_s = case.job.age_s(process, mine.changed_ns)
        if waited_s <= case.job.deadline_s(process, COLLECTIVE) or process.ended_ns is not None:
            continue
        key = joined.endpoint, joined.name, mine.enqueued
        if key in seen:
            continue
        seen.add(key)
        meeting = meeting_of(case.state, process, joined)
        members = list(meeting.come.values())
        if meeting.absent or len(members) != meeting.size:
            continue  # it has not formed, or a member is not observed
        at = {p.key: _progress(p, joined.name) for p in members}
        outside = [p for p in members if (one := at[p.key]) and one.enqueued < mine.enqueued]
        if outside and all(at.values()):
            inside = [p for p in members if _is_inside(p, at[p.key], mine.enqueued)]
            yield Standstill(
                meeting=meeting,
                seq=mine.enqueued,
                inside=inside,
                outside=outside,
                waited_s=waited_s,
            )


def _is_inside(process: Process, progress: GroupProgress | None, seq: int) -> bool:
    """Whether it waits: who only receives in a broadcast is through before the others."""
    is_in = progress is not None and progress.enqueued >= seq > progress.completed
    return is_in and process.ended_ns is None


def _progress(process: Process, pg_name: str) -> GroupProgress | None:
    """None where it was not observed. A member that has called nothing in the group yet does not list it."""
    pulse = process.outside.pulse
    if pulse is None or not pg_name:
        return None
    found = next((one for one in pulse.groups if one.pg_name == pg_name), None)
    return found or GroupProgress(pg_name=pg_name)


def _finding(case: Case, standstill: Standstill, owners: tuple[int, ...]) -> Finding:
    waits = len(standstill.inside) == 1
    others = tuple(r for r in ranks_here(case, standstill.inside) if r not in owners)
    # Who waits for others in its own world is no culprit: what it waits for is found there.
    free = tuple(rank for rank in owners if not case.graph.is_waiting(rank))
    return Finding(
        code="collective.rank_missing",
        role="root" if free else "symptom",
        culprit_ranks=free,
        waiting_ranks=others,
        pg_name=next((one.name for _, one in standstill.meeting.joined if one.name), None),
        summary=f"{named(case, standstill.outside)} never entered collective #{standstill.seq} of "
        f"{standstill.meeting.title}; {named(case, standstill.inside)} {'has' if waits else 'have'} waited in it "
        f"for {seconds(standstill.waited_s)}",
        evidence=(
            *(case.place(rank) for rank in owners[:_LISTED]),
            *(_waiter(case, process, standstill) for process in standstill.inside[:_LISTED]),
        ),
        confidence=0.9,
    )


def _waiter(case: Case, process: Process, standstill: Standstill) -> Evidence:
    text = f"{named(case, [process])} (pid {process.pid} on {process.host}) is in collective #{standstill.seq} of it"
    return Evidence("pulse", text, process.global_rank)
