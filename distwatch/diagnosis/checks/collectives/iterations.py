"""collective.count_uneven: some ranks run a loop once more than the others."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.processes.debugging import debugged_by_intent
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.sequences import (
    Entry,
    entry_at,
    history_of,
    newest_of,
    sequence_evidence,
)
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks

SETTLED_S = 1.0
LOOPS_FROM = 2
"""This many calls from one place that the ranks made together are a loop."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """The number at which the ranks split: some are still in the loop, others have left it."""

    seq: int
    more: dict[int, Entry]
    """Ranks that are in the loop's next round."""
    fewer: dict[int, Entry]
    """Ranks that now call something else."""
    together: int
    """Rounds that all ranks have made since they last made the other ranks' call."""
    whole: bool
    """Whether that count reaches back to the loop's first round, as far as it was recorded."""


class CountUneven:
    """At #n some ranks repeat the loop's call, and the others make the call after the loop."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            if view.in_flight and view.waited_s < SETTLED_S:
                continue
            if not view.in_flight and not case.deaths.own and not case.deaths.victims:
                continue
            found = uneven_round(case, view)
            if found is not None and view.on_device and len(found.more) == len(found.fewer):
                continue  # op_mismatch knows more: what groups of the same part have called
            if found is not None and not any(debugged_by_intent(case, r) for r in view.members):
                yield self._finding(case, view, found)

    def _finding(self, case: Case, view: GroupView, found: Round) -> Finding:
        odd = _odd(found)
        entry = next(iter(found.more.values()))
        other = next(iter(found.fewer.values()))
        at_least = "" if found.whole else "at least "
        more = found.together + 1
        return Finding(
            code="collective.count_uneven",
            culprit_ranks=odd,
            waiting_ranks=tuple(rank for rank in view.members if rank not in odd),
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"{name_ranks(found.more)} {agree(found.more, 'calls', 'call')} {entry} {at_least}{more} times, "
            f"{name_ranks(found.fewer)} only {at_least}{found.together} times and "
            f"{agree(found.fewer, 'is', 'are')} in {other}: they meet as "
            f"#{found.seq} of {view.title} and wait for each other"
            + (f" for {seconds(view.waited_s)}" if view.in_flight else ""),
            evidence=tuple(self._evidence(case, view, found)),
            confidence=0.9 if len(odd) * 2 < len(found.more) + len(found.fewer) else 0.7,
        )

    def _evidence(self, case: Case, view: GroupView, found: Round) -> Iterable[Evidence]:
        for rank, entry in [*list(found.more.items())[:4], *list(found.fewer.items())[:4]]:
            rounds = found.together + (rank in found.more)
            call = f"#{found.seq} is {entry.op}{case.at(entry.site)}"
            text = f"rank {rank}: {call}; {rounds} rounds since the last other call"
            yield Evidence(entry.source, text, rank)
        for rank in [*list(found.more)[:2], *list(found.fewer)[:2]]:
            yield case.place(rank)
        yield from sequence_evidence(case, view, _odd(found), found.seq)


def uneven_round(case: Case, view: GroupView) -> Round | None:
    """Where the members split like an uneven loop; None where they do not."""
    present = [rank for rank in view.members if rank in case.job.ranks]
    for seq in _candidates(case, view, present):
        at = {rank: entry for rank in present if (entry := entry_at(case, view, rank, seq))}
        kinds = {entry.place for entry in at.values()}
        if len(kinds) != 2 or len({(entry.op, entry.size) for entry in at.values()}) < 2:
            continue
        histories = {rank: history_of(case, view, rank) for rank in at}
        for loop in kinds:
            more = {rank: entry for rank, entry in at.items() if entry.place == loop}
            fewer = {rank: entry for rank, entry in at.items() if entry.place != loop}
            if _is_told_apart(more, fewer) and (found := _uneven(seq, more, fewer, histories)):
                return found
    return None


def _is_told_apart(more: dict[int, Entry], fewer: dict[int, Entry]) -> bool:
    """Whether it can be a loop that some have left, and not a single call that some made differently."""
    loop, after = next(iter(more.values())), next(iter(fewer.values()))
    if loop.site is None and after.site is None:
        # Without call sites, one odd call among many is more likely a wrong call.
        return loop.op != after.op and len(fewer) >= len(more)
    return True


def _uneven(
    seq: int,
    more: dict[int, Entry],
    fewer: dict[int, Entry],
    histories: dict[int, dict[int, Entry]],
) -> Round | None:
    loop, after = next(iter(more.values())), next(iter(fewer.values()))
    ranks = (*more, *fewer)
    # Only as far back as all ranks' calls are remembered: those must be the same.
    since = max(_remembered_since(histories[rank], seq, loop) for rank in ranks)
    counted = [
        _rounds(histories[rank], range(seq - 1, since - 1, -1), loop, after) for rank in ranks
    ]
    rounds = {count for count, _ in counted}
    # A call that is part of the loop, too, was made in another order: no rank has left the loop.
    swapped = after.op != loop.op and any(
        histories[rank][number].op == after.op and histories[rank][number].place != after.place
        for rank in ranks
        for number in range(since, seq)
    )
    if swapped or len(rounds) != 1 or min(rounds) < LOOPS_FROM:
        return None
    whole = since <= 1 or all(ended for _, ended in counted)
    return Round(seq=seq, more=more, fewer=fewer, together=min(rounds), whole=whole)


def _remembered_since(entries: dict[int, Entry], seq: int, loop: Entry) -> int:
    """The first number from which on all calls are known, and known well enough to compare."""
    number = seq
    while (before := entries.get(number - 1)) is not None:
        if loop.site is not None and before.site is None and before.op == loop.op:
            break
        number -= 1
    return number


def _rounds(
    entries: dict[int, Entry], numbers: Iterable[int], loop: Entry, after: Entry
) -> tuple[int, bool]:
    """How many times the loop's call was made since the other call, if there is one."""
    rounds = 0
    for number in numbers:
        place = entries[number].place
        if place == after.place:
            return rounds, True
        rounds += place == loop.place
    return rounds, False


def _candidates(case: Case, view: GroupView, present: list[int]) -> list[int]:
    if view.in_flight:
        return [view.seq]
    newest = {newest_of(case, view, rank) for rank in present}
    return sorted((seq for seq in newest if seq is not None), reverse=True)[:2]


def _odd(found: Round) -> tuple[int, ...]:
    """The ranks of the smaller side; all of them where both sides are equal."""
    if len(found.more) == len(found.fewer):
        return tuple(sorted((*found.more, *found.fewer)))
    smaller = found.more if len(found.more) < len(found.fewer) else found.fewer
    return tuple(sorted(smaller))
