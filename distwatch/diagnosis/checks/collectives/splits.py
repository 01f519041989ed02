"""collective.shape_mismatch of an all_to_all: a member gives another one more or less than that one expects."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import msgspec

from distwatch.diagnosis.checks.collectives.entries import SETTLED_S
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.state.events import Operation
from distwatch.state.finding import Evidence, Finding
from distwatch.state.splits import Splits

_CALLS = 4
"""The newest calls of each rank: who gave less than was expected may be further by now."""
_MEMBERS = 64
_SHOWN = 8


class Unfit(msgspec.Struct, frozen=True, kw_only=True):
    """Two members of one call whose lists do not fit."""

    giver: int
    taker: int
    given: int
    expected: int


class SplitsDiffer:
    """Of two ranks both are named, of more the one that fits with nobody."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            if found := unfit_splits(case, view):
                yield self._finding(case, view, *found)

    def _finding(
        self, case: Case, view: GroupView, calls: dict[int, Operation], pairs: list[Unfit]
    ) -> Finding:
        first = pairs[0]
        call = calls[first.giver]
        culprits = _common(pairs) or tuple(sorted({first.giver, first.taker}))
        at = case.at(case.job.site_of(first.giver, call), ", at")
        who = "itself" if first.giver == first.taker else f"rank {first.taker}"
        return Finding(
            code="collective.shape_mismatch",
            culprit_ranks=culprits,
            waiting_ranks=tuple(rank for rank in view.members if rank not in culprits),
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"in {operation_name(call.op)} #{call.seq} of {view.title} rank {first.giver} gives "
            f"{first.given} elements to {who}, which expects {first.expected}{at}",
            advice="The list of what a rank gives must be the others' lists of what they take from it: exchange "
            "the sizes in an all_to_all of their own before the data.",
            evidence=tuple(_evidence(case, calls, pairs)),
            confidence=0.9,
        )


def unfit_splits(case: Case, view: GroupView) -> tuple[dict[int, Operation], list[Unfit]] | None:
    """The calls of one all_to_all and the members whose lists do not fit, where the group hangs or has ended."""
    stuck = view.in_flight and view.waited_s >= SETTLED_S
    if not stuck and not case.deaths.own and not case.deaths.victims:
        return None
    by_seq: dict[int, dict[int, tuple[Operation, Splits]]] = {}
    for rank in view.members[:_MEMBERS]:
        process = case.job.ranks.get(rank)
        for call in process.outside.operations if process else ():
            if call.splits is not None and call.pg_name == view.pg_name and call.seq >= 0:
                by_seq.setdefault(call.seq, {})[rank] = call, call.splits
    for seq in sorted(by_seq, reverse=True)[:_CALLS]:
        if pairs := list(_unfit(view.members, by_seq[seq])):
            return {rank: call for rank, (call, _) in by_seq[seq].items()}, pairs
    return None


def _unfit(members: tuple[int, ...], made: dict[int, tuple[Operation, Splits]]) -> Iterable[Unfit]:
    place = {rank: number for number, rank in enumerate(members)}
    for giver, taker in product(made, made):
        (call, gives), (other, takes) = made[giver], made[taker]
        given = gives.given_to(place[taker], len(members))
        expected = takes.taken_from(place[giver], len(members))
        same_type = call.dtype == other.dtype
        if given is not None and expected is not None and given != expected and same_type:
            yield Unfit(giver=giver, taker=taker, given=given, expected=expected)


def _common(pairs: list[Unfit]) -> tuple[int, ...]:
    """The only rank that is in all of several pairs; () where nothing decides."""
    shared = set.intersection(*({one.giver, one.taker} for one in pairs))
    others = {rank for one in pairs for rank in (one.giver, one.taker)} - shared
    return tuple(shared) if len(shared) == 1 and len(others) != 1 else ()


def _evidence(case: Case, calls: dict[int, Operation], pairs: list[Unfit]) -> Iterable[Evidence]:
    involved = dict.fromkeys(rank for one in pairs for rank in (one.giver, one.taker))
    for rank in list(involved)[:_SHOWN]:
        call = calls[rank]
        splits = call.splits or Splits()
        gives, takes = (
            _list(splits.given, splits.given_total),
            _list(splits.taken, splits.taken_total),
        )
        at = case.at(case.job.site_of(rank, call), ", at")
        yield Evidence(
            "operations", f"rank {rank} gives {gives} and takes {takes} elements{at}", rank
        )


def _list(parts: tuple[int, ...], total: int) -> str:
    shown = ", ".join(map(str, parts[:_SHOWN]))
    more = f", … ({len(parts)} in all)" if len(parts) > _SHOWN else ""
    return f"[{shown}{more}]" if parts else f"{total} in equal parts"
