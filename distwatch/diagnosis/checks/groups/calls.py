"""group.members_disagree, counter_skew: all ranks call `new_group`, but not in the same sequence.

torch names a group by the number of groups that the process made before it: ranks with different
counts wait for each other under different names.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.communication import is_init_symptom
from distwatch.diagnosis.facts.init_waits import step_evidence
from distwatch.state.agreement import odd_ones
from distwatch.state.bounds import whole_number
from distwatch.state.events import GroupCalled
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Step
from distwatch.state.rank_sets import format_ranks, name_by, name_ranks

SETTLED_S = 2.0
Calls = dict[int, tuple[int, ...]]
"""Members by number of the call; all ranks of the world where the call named none."""


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """The first call in which ranks differ."""

    number: int
    members: dict[int, tuple[int, ...]]
    """What each rank called under that number, for ranks that have made that many calls."""
    odd: tuple[int, ...]
    decided: bool
    shifted: dict[int, int]
    """Odd ranks whose later calls match again: 1: one more call before, -1: one fewer."""


def first_skew(case: Case) -> Skew | None:
    """The call where the sequences split; None where they agree, as far as they go."""
    everybody = tuple(range(case.job.world or len(case.job.ranks)))
    sequences = {
        rank: calls
        for rank, process in case.job.ranks.items()
        if (calls := _calls(process.group_calls.values(), everybody))
    }
    for number in sorted({number for calls in sequences.values() for number in calls}):
        members = {rank: calls[number] for rank, calls in sequences.items() if number in calls}
        if len(set(members.values())) < 2:
            continue
        odd, decided = odd_ones({rank: format_ranks(called) for rank, called in members.items()})
        usual = sequences[min(set(members) - odd)]
        shifted = {rank: _shift(sequences[rank], usual, number) for rank in sorted(odd)}
        return Skew(
            number=number,
            members=members,
            odd=tuple(sorted(odd)),
            decided=decided == "majority",
            shifted={rank: shift for rank, shift in shifted.items() if shift},
        )
    return None


def _calls(called: Iterable[GroupCalled], everybody: tuple[int, ...]) -> Calls:
    # Without members torch takes all ranks; an empty list could not be read.
    return {
        call.number: everybody if call.members is None else tuple(sorted(call.members))
        for call in called
        if call.members is None or call.members
    }


def _shift(odd: Calls, usual: Calls, number: int) -> int:
    """1 where the odd rank made one call too many, -1 where it made one too few, 0 where neither matches."""
    if _fits(odd, usual, number + 1, 0):
        return 0  # later calls are the same: only this call had other members
    if _fits(odd, usual, number, -1):
        return 1
    return -1 if _fits(usual, odd, number, -1) else 0


def _fits(longer: Calls, shorter: Calls, start: int, shift: int) -> bool:
    """Whether the calls from `start` on equal the other's, moved by `shift`, and there are any."""
    pairs = [
        (members, shorter[number + shift])
        for number, members in longer.items()
        if number + shift >= start and number + shift in shorter
    ]
    return bool(pairs) and all(one == other for one, other in pairs)


class GroupCallsDiffer:
    """Reported only while a rank is stuck: otherwise groups may be made in any way."""

    def find(self, case: Case) -> Iterable[Finding]:
        skew = first_skew(case)
        if skew is None:
            return
        stuck = _stuck(case, skew.number)
        waiting = set(stuck) | {
            r for v in case.groups if v.in_flight and v.overdue for r in v.entered
        }
        # Ranks that connected to the wrong peers under that name lose them at once, and wait for nothing.
        waiting |= set(case.deaths.victims)
        if not waiting:
            return
        shifted = len(skew.shifted) == len(skew.odd)
        yield self._finding(case, skew, stuck, waiting, shifted)

    def _finding(
        self, case: Case, skew: Skew, stuck: dict[int, Step], waiting: set[int], shifted: bool
    ) -> Finding:
        odd, number = skew.odd, skew.number
        named = {rank: name_ranks(members) for rank, members in skew.members.items()}
        told = "; ".join(name_by(named, " called it for ", " called it for "))
        if shifted:
            more = [rank for rank in odd if skew.shifted[rank] > 0]
            fewer = [rank for rank in odd if skew.shifted[rank] < 0]
            parts = [f"{name_ranks(more)} made one new_group call more"] if more else []
            parts += [f"{name_ranks(fewer)} made one new_group call fewer"] if fewer else []
            summary = (
                f"{' and '.join(parts)} than the others at #{number}, so every later "
                f"group has a different name there: {told}"
            )
        else:
            summary = f"new_group #{number} has different members on {name_ranks(odd)}: {told}"
        confidence = 0.95 if shifted else 0.9
        return Finding(
            code="group.counter_skew" if shifted else "group.members_disagree",
            culprit_ranks=odd,
            waiting_ranks=tuple(sorted(waiting - set(odd))),
            summary=summary,
            evidence=(
                *_evidence(case, skew),
                *(step_evidence(case, rank, step) for rank, step in list(stuck.items())[:4]),
            ),
            confidence=confidence if skew.decided else 0.6,
        )


def _stuck(case: Case, number: int) -> dict[int, Step]:
    """Ranks that are in that call or a later one for too long, or for which it failed."""
    found: dict[int, Step] = {}
    for rank, process in case.job.ranks.items():
        steps = [step for step in process.steps.values() if _number_of(step) >= number]
        for step in steps:
            open_s = case.job.age_s(process, step.started_ns) if step.ended_ns is None else 0.0
            if open_s >= SETTLED_S or (step.error and is_init_symptom(step.error)):
                found.setdefault(rank, step)
    return found


def _number_of(step: Step) -> int:
    """3 for `new_group #3`; -1 for any other step."""
    number = whole_number(step.name.partition("new_group #")[2])
    return -1 if number is None else number


def _evidence(case: Case, skew: Skew) -> Iterable[Evidence]:
    shown = [*skew.odd[:4], *[rank for rank in skew.members if rank not in skew.odd][:4]]
    for rank in shown:
        calls = case.job.ranks[rank].group_calls
        call = calls.get(skew.number)
        site = f", at {call.site}" if call and call.site else ""
        text = f"rank {rank}: new_group #{skew.number} of {name_ranks(skew.members[rank])}{site}"
        counted = f"; {max(calls)} call{'s' if max(calls) != 1 else ''} in all"
        yield Evidence("journal", text + counted, rank)
