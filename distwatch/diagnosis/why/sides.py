"""The two sides of a finding: ranks that went one way, and ranks that went another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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
_OF_LINES = "collective.site_differs"
_OF_GROUP_CALLS = ("group.counter_skew", "group.members_disagree")
_OF_VALUES = (
    "shape_mismatch", "dtype_mismatch", "root_disagrees", "members_disagree", "unmatched", "cycle",
)  # fmt: skip
Calls = Mapping[int, Operation]
"""By number, what one rank called in one group."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks with one trail.

    Attributes:
        times: how often they made the call that it leads to; -1: not known.
        is_alone: the other side has never made that call.
        is_common: it has.
    """

    ranks: tuple[int, ...]
    trail: Trail
    times: int = -1
    is_alone: bool = False
    is_common: bool = False


def is_on_values(finding: Finding) -> bool:
    """Whether ranks that call from one line may part in what they pass there."""
    return finding.code.endswith(_OF_VALUES)


def sides_of(case: Case, finding: Finding) -> Iterator[tuple[Side, Side]]:
    """The culprits, and those who went another way: by their calls, then by where they are now."""
    blamed = [r for r in finding.culprit_ranks[:_RANKS] if r in case.job.ranks]
    waiting = [r for r in finding.waiting_ranks[:_RANKS] if r in case.job.ranks]
    if finding.code == _OF_LINES:
        waiting = waiting or _members_beside(case, finding, blamed)
    if not blamed:
        return
    now = {rank: trail_now(case.job.ranks[rank]) for rank in (*blamed, *waiting)}
    by_calls = _trails(case, finding, blamed, waiting, now)
    if finding.code in _OF_GROUP_CALLS:
        by_calls |= _trails_of_group_calls(case, blamed, waiting)
    for trails in (by_calls, now):
        known = {rank: trail for rank, trail in trails.items() if trail.is_known}
        if sides := _parted_sides(known, blamed, waiting):
            yield _counted(case, finding, *sides)


def _parted_sides(
    trails: Mapping[int, Trail], blamed: list[int], waiting: list[int]
) -> tuple[Side, Side] | None:
    """None where one of the sides is not known."""
    culprits, others = _groups(trails, blamed), _groups(trails, waiting)
    if not others:
        # Nobody is more wrong than the others: the largest part of them is the other side.
        culprits, others = culprits[1:][::-1] or _halves(culprits), culprits[:1]
    if not culprits or not others:
        return None
    (mine, ranks), (yours, rest_of) = culprits[0], others[0]
    # Whatever ended a rank that only waited says nothing about its way.
    rest_of = tuple(rank for rank in rest_of if rank not in ranks)
    rest = Side(ranks=rest_of, trail=msgspec.structs.replace(yours, raised=False))
    return Side(ranks=ranks, trail=mine), rest


def _members_beside(case: Case, finding: Finding, blamed: list[int]) -> list[int]:
    """The other members of the group: nobody waits for anybody yet, but their calls differ."""
    groups = (case.job.ranks[rank].groups.get(finding.pg_name or "") for rank in blamed)
    members = next((group.members for group in groups if group is not None), ())
    return [rank for rank in members if rank in case.job.ranks and rank not in blamed][:_RANKS]


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
    case: Case,
    finding: Finding,
    blamed: list[int],
    waiting: list[int],
    sighted: Mapping[int, Trail],
) -> dict[int, Trail]:
    now = dict(sighted)
    made = {
        rank: calls
        for rank in now
        if (calls := _calls(case.job.ranks[rank], _group(case, finding)))
    }
    pair = _pair_of(case, now) if finding.code.endswith("shape_mismatch") else {}
    number = (
        _first_apart(case, made, blamed, waiting)
        if finding.code == _OF_LINES
        else _parted(case, made, blamed, waiting, is_on_values(finding))
    )
    for rank, process in ((rank, case.job.ranks[rank]) for rank in now):
        calls = made.get(rank, {})
        call = pair.get(rank) or _call_at(calls, number) or _open_p2p(process)
        if call is None and calls and _is_outdated(process, now[rank], calls[max(calls)]):
            # Its last call is the last thing known, unless C++ has called since.
            last = calls[max(calls)]
            call = None if called_natively_since(process, last.pg_name, last.seq) else last
        if call is not None and (trail := trail_of_call(process, call)).steps:
            now[rank] = _fuller(trail, now[rank])
    return now


def _is_outdated(process: Process, now: Trail, last: Operation) -> bool:
    """Whether nobody has looked at it since that call, so that its stack shows where it was before."""
    if not now.is_known or now.raised or now.ended:
        return not now.is_known
    seen_ns = process.outside.stack_ns
    return seen_ns is not None and seen_ns < last.entered_ns


def _pair_of(case: Case, ranks: Iterable[int]) -> dict[int, Operation]:
    """The send and the recv of two of these ranks, one of which was in it to its end; empty where there is none."""
    for rank in ranks:
        process = case.job.ranks[rank]
        call = process.outside.operations[-1] if process.outside.operations else None
        group = process.groups.get(call.pg_name) if call is not None else None
        if call is None or group is None or operation_name(call.op) not in P2P:
            continue
        if call.left_ns and process.ended_ns is None:
            continue  # it came to its end, and the rank goes on
        peer = group.members[call.peer] if 0 <= call.peer < len(group.members) else -1
        for one in case.job.ranks[peer].outside.operations if peer in ranks else ():
            of_me = 0 <= one.peer < len(group.members) and group.members[one.peer] == rank
            is_other_end = operation_name(one.op) in P2P and one.op != call.op
            if of_me and is_other_end and _of_pair(one) == _of_pair(call):
                return {rank: call, peer: one}
    return {}


def _of_pair(call: Operation) -> tuple[str, int, int]:
    """What a send has in common with the recv that takes it."""
    return call.pg_name, call.tag, call.p2p_seq


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
    case: Case,
    made: Mapping[int, Calls],
    blamed: list[int],
    waiting: list[int],
    on_values: bool,
) -> int | None:
    """The number of the first call from which on the sides call from different lines.

    Calls from different lines may well match: only those count after which no more come from one line.

    Args:
        on_values: their newest common call is what does not fit, even where it comes from one line.
    """
    first = next((rank for rank in blamed if rank in made), None)
    others = waiting or [rank for rank in blamed if rank != first]
    second = next((rank for rank in others if rank in made), None)
    if first is None or second is None:
        newest = [max(calls) for rank, calls in made.items() if rank in others]
        return max(newest, default=None)
    mine, yours = made[first], made[second]
    number = newest_common = min(max(mine), max(yours))
    parted = number + 1
    while number in mine and number in yours:
        trails = (
            trail_of_call(case.job.ranks[first], mine[number]),
            trail_of_call(case.job.ranks[second], yours[number]),
        )
        if trails[0].steps == trails[1].steps:
            return number if on_values and number == newest_common else parted
        parted, number = number, number - 1
    return parted


def _first_apart(
    case: Case, made: Mapping[int, Calls], blamed: list[int], waiting: list[int]
) -> int | None:
    """The oldest number that one of either side called from another line, whatever came later."""
    first = next((rank for rank in blamed if rank in made), None)
    second = next((rank for rank in waiting if rank in made), None)
    if first is None or second is None:
        return None
    for number in sorted(made[first].keys() & made[second].keys()):
        lines = {
            trail_of_call(case.job.ranks[rank], made[rank][number]).steps[-1:]
            for rank in (first, second)
        }
        if len(lines) > 1:
            return number
    return None


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
    sides = [one, other]
    times = (-1, -1)
    for number, side in enumerate((one, other)):
        if not side.trail.steps:
            continue
        mine, theirs = (_times(case, finding, side, whose) for whose in (side, sides[1 - number]))
        if min(mine, theirs) > 0 and mine != theirs and times == (-1, -1):
            times = (mine, theirs) if number == 0 else (theirs, mine)
        never = mine > 0 and theirs == 0 and _is_whole(case, finding, sides[1 - number])
        sides[number] = msgspec.structs.replace(side, is_alone=never, is_common=theirs > 0)
    return (
        msgspec.structs.replace(sides[0], times=times[0]),
        msgspec.structs.replace(sides[1], times=times[1]),
    )


def _times(case: Case, finding: Finding, side: Side, whose: Side) -> int:
    process = case.job.ranks[whose.ranks[0]]
    calls = _calls(process, _group(case, finding)).values()
    return sum(trail_of_call(process, call).steps[-1:] == side.trail.steps[-1:] for call in calls)


def _is_whole(case: Case, finding: Finding, side: Side) -> bool:
    """Whether all its calls in the group are remembered: the oldest ones are forgotten first."""
    group = _group(case, finding)
    called = case.job.ranks[side.ranks[0]].outside.operations
    return any(one.pg_name == group and 0 <= one.seq <= 1 for one in called)
