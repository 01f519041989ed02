"""The two sides of a finding: ranks that went one way, and ranks that went another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.operations import P2P, operation_name
from distwatch.diagnosis.facts.sequences import called_natively_since
from distwatch.diagnosis.why.trails import Step, Trail, trail_now, trail_of_call
from distwatch.state.events import Operation, Site
from distwatch.state.finding import Finding
from distwatch.state.model import Process

_RANKS = 64
"""Ranks of one side that are looked at."""
_OF_GROUP_CALLS = ("group.counter_skew", "group.members_disagree")
Calls = Mapping[int, Operation]
"""By number, what one rank called in one group."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks with one trail. `times`: how often they made the call that it leads to; -1: not known."""

    ranks: tuple[int, ...]
    trail: Trail
    times: int = -1


def sides_of(case: Case, finding: Finding) -> tuple[Side, Side] | None:
    """The culprits, and those who went another way; None where one of them is not known."""
    blamed = [r for r in finding.culprit_ranks[:_RANKS] if r in case.job.ranks]
    waiting = [r for r in finding.waiting_ranks[:_RANKS] if r in case.job.ranks]
    if not blamed:
        return None
    trails = _trails(case, finding, blamed, waiting)
    if finding.code in _OF_GROUP_CALLS:
        trails |= _trails_of_group_calls(case, blamed, waiting)
    culprits, others = _groups(trails, blamed), _groups(trails, waiting)
    if not others:
        # Nobody is more wrong than the others: the largest part of them is the other side.
        culprits, others = culprits[1:][::-1] or _halves(culprits), culprits[:1]
    if not culprits or not others:
        return None
    (mine, ranks), (yours, rest_of) = culprits[0], others[0]
    one = Side(ranks=ranks, trail=mine)
    # Whatever ended a rank that only waited says nothing about its way.
    rest_of = tuple(rank for rank in rest_of if rank not in ranks)
    rest = Side(ranks=rest_of, trail=msgspec.structs.replace(yours, raised=False))
    return _counted(case, finding, one, rest)


def _halves(same: list[tuple[Trail, tuple[int, ...]]]) -> list[tuple[Trail, tuple[int, ...]]]:
    """All on one line, which differ in what they pass there."""
    return [(trail, ranks[1:]) for trail, ranks in same if len(ranks) > 1]


def _groups(
    trails: Mapping[int, Trail], ranks: Iterable[int]
) -> list[tuple[Trail, tuple[int, ...]]]:
    """The ranks by their trails, most ranks first."""
    found: dict[Trail, list[int]] = {}
    for rank in ranks:
        if rank in trails:
            found.setdefault(trails[rank], []).append(rank)
    ordered = sorted(found.items(), key=lambda one: -len(one[1]))
    return [(trail, tuple(members)) for trail, members in ordered]


def _trails(
    case: Case, finding: Finding, blamed: list[int], waiting: list[int]
) -> dict[int, Trail]:
    now = {rank: trail_now(case.job.ranks[rank]) for rank in (*blamed, *waiting)}
    made = {
        rank: calls
        for rank in now
        if (calls := _calls(case.job.ranks[rank], _group(case, finding)))
    }
    number = _parted(case, made, blamed, waiting)
    for rank, process in ((rank, case.job.ranks[rank]) for rank in now):
        calls = made.get(rank, {})
        call = _call_at(calls, number) or _open_p2p(process)
        if call is None and calls and not now[rank].is_known:
            # Nobody looked at it: its last call is the last thing known, unless C++ has called since.
            last = calls[max(calls)]
            call = None if called_natively_since(process, last.pg_name, last.seq) else last
        if call is not None and (trail := trail_of_call(process, call)).steps:
            now[rank] = _fuller(trail, now[rank])
    return {rank: trail for rank, trail in now.items() if trail.is_known}


def _group(case: Case, finding: Finding) -> str | None:
    """The group that the finding is about, or in which the first of the waiting ranks waits."""
    waits = (wait for rank in finding.waiting_ranks[:_RANKS] for wait in case.job.waits_for(rank))
    return finding.pg_name or next((wait.pg_name for wait in waits), None)


def _fuller(call: Trail, now: Trail) -> Trail:
    """The call's trail; the rank's stack where it is in that call, since it names more."""
    is_there = now.steps[-len(call.steps) :] == call.steps
    return now if is_there and now.called else call


def _calls(process: Process, pg_name: str | None) -> dict[int, Operation]:
    return {
        call.seq: call
        for call in process.outside.operations
        if call.seq >= 0 and call.site and call.pg_name == pg_name
    }


def _call_at(calls: Calls, number: int | None) -> Operation | None:
    return calls.get(number) if number is not None else None


def _open_p2p(process: Process) -> Operation | None:
    newest = process.outside.operations[-1] if process.outside.operations else None
    is_in = newest is not None and not newest.left_ns and operation_name(newest.op) in P2P
    return newest if is_in and process.ended_ns is None else None


def _parted(
    case: Case, made: Mapping[int, Calls], blamed: list[int], waiting: list[int]
) -> int | None:
    """The number of the first call from which on the sides call from different lines.

    Calls from different lines may well match: only those count after which no more come from one line.
    """
    first = next((rank for rank in blamed if rank in made), None)
    others = waiting or [rank for rank in blamed if rank != first]
    second = next((rank for rank in others if rank in made), None)
    if first is None or second is None:
        newest = [max(calls) for rank, calls in made.items() if rank in others]
        return max(newest, default=None)
    mine, yours = made[first], made[second]
    number = min(max(mine), max(yours))
    parted = number + 1
    while number in mine and number in yours:
        trails = (
            trail_of_call(case.job.ranks[first], mine[number]),
            trail_of_call(case.job.ranks[second], yours[number]),
        )
        if trails[0].steps == trails[1].steps:
            break
        parted, number = number, number - 1
    return parted


def _trails_of_group_calls(case: Case, blamed: list[int], waiting: list[int]) -> dict[int, Trail]:
    """The lines of the first `new_group` that the sides called from different lines; none where they did not."""
    ranks = {rank: case.job.ranks[rank] for rank in (*blamed, *waiting)}
    calls = {rank: _sites_of_group_calls(process) for rank, process in ranks.items()}
    first = next((rank for rank in blamed if calls[rank]), None)
    second = next((rank for rank in waiting if calls[rank]), None)
    if first is None or second is None:
        return {}
    for number in sorted(calls[first].keys() & calls[second].keys()):
        if calls[first][number] != calls[second][number]:
            sites = {rank: made[number] for rank, made in calls.items() if number in made}
            return {
                rank: Trail(
                    steps=(Step(site.file, site.line, site.function),), called=("new_group",)
                )
                for rank, site in sites.items()
                if site is not None
            }
    return {}


def _sites_of_group_calls(process: Process) -> dict[int, Site | None]:
    """By number, where it called `new_group`; of a rank that only calls as members do, those calls."""
    if process.group_calls:
        return {number: call.site for number, call in process.group_calls.items()}
    return {number: call.site for number, call in process.local_group_calls.items()}


def _counted(case: Case, finding: Finding, one: Side, other: Side) -> tuple[Side, Side]:
    """With how often each side made the call that one of them is in, and the other one is not."""
    for side in (one, other):
        if not side.trail.steps:
            continue
        line = side.trail.steps[-1]
        times = [
            sum(
                trail_of_call(process, call).steps[-1:] == (line,)
                for call in _calls(process, _group(case, finding)).values()
            )
            for process in (case.job.ranks[s.ranks[0]] for s in (one, other))
        ]
        if min(times) > 0 and times[0] != times[1]:
            return (
                msgspec.structs.replace(one, times=times[0]),
                msgspec.structs.replace(other, times=times[1]),
            )
    return one, other
