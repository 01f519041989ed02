"""The words for why ranks part: a clause for the summary, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.parting import Parting
from distwatch.diagnosis.why.topics import Topic
from distwatch.diagnosis.why.unmatched import Kept, Missing
from distwatch.state.rank_sets import agree, name_ranks

Ranks = tuple[tuple[int, ...], tuple[int, ...]]
_ABOUT = {
    "data": "which depends on data",
    "files": "which depends on files",
    "time": "which depends on the time",
    "randomness": "which depends on random numbers",
    "environment": "which depends on the environment of each process",
}
_DECIDE = {
    "data": "Let all ranks decide alike: all_reduce the flag (MAX) before the branch, so that every rank takes "
    "the same way.",
    "files": "Let one rank look at the file and broadcast the answer: ranks may see a file at different times.",
    "time": "Let one rank read the clock and broadcast the decision.",
    "randomness": "Seed all ranks alike for this decision, or draw it on one rank and broadcast it.",
    "environment": "Let one rank read the environment and broadcast the decision, or set it alike on all ranks.",
}
_EXCEPTION = (
    "Do not go on alone after an exception: let it end the rank, or tell the other ranks (all_reduce an error "
    "flag) before the next collective."
)
_LOOP = (
    "Give every rank the same number of rounds: drop_last=True, a DistributedSampler that pads, an all_reduce "
    "(MIN) of the length before the loop, or the Join context manager."
)
_CACHED = (
    "Call the collective outside of the function whose results are kept, or ask it on every rank with the same "
    "arguments."
)
_HELD_UP = (
    "What only some ranks do there holds up the others: let every rank do it, make it shorter, or let "
    "the others not wait for it in a collective."
)
_VERBS = {
    "return": ("returns", "return"), "continue": ("goes on to the next round", "go on to the next round"),
    "break": ("leaves the loop", "leave the loop"), "raise": ("raises", "raise"),
    "exit": ("ends", "end"),
}  # fmt: skip


def clause_of(parting: Parting, ranks: Ranks, counts: tuple[int, int] | None) -> str:
    """`only rank 0 takes `if rank == 0:`, train.py:11, and calls all_reduce there`."""
    guard, taker = parting.guard, parting.taker
    takers, others = ranks[taker], ranks[1 - taker]
    at = f"`{guard.text}`, {parting.file.rpartition('/')[2]}:{guard.line}"
    about = f", {_ABOUT[parting.about]}" if parting.about in _ABOUT else ""
    if guard.kind == "loop" or (
        guard.kind == "try" and counts is not None and not parting.is_split
    ):
        at = f"the try before {at}" if guard.text.startswith("except") else at
        return _loop_clause(parting, ranks, counts, at, about)
    who = f"only {name_ranks(takers)}" if len(takers) <= max(len(others), 1) else name_ranks(takers)
    if guard.is_exit:
        verb = agree(takers, *_VERBS[guard.kind])
        take = agree(takers, "takes", "take")
        before = f" before {parting.calls[1 - taker]}" if parting.calls[1 - taker] else ""
        return f"{who} {take} {at}{about}, and {verb}{before}"
    if guard.arm == "chosen":
        call = parting.calls[taker] or "backward"
        in_it = f"{name_ranks(takers)} {agree(takers, 'is', 'are')} still there"
        return f"{at}{about}, decides whether {call} waits for the other ranks, and only {in_it}"
    if guard.kind == "cached":
        runs = f"{agree(takers, 'runs', 'run')} {parting.function}"
        return f"{who} {runs}: {at}{about}, keeps its results by its arguments"
    if parting.registers:
        what = "a lambda" if parting.registers == "<lambda>" else parting.registers
        does = f"{agree(takers, 'passes', 'pass')} {what} on"
        call = f", which calls {parting.calls[taker]}" if parting.calls[taker] else ""
        return f"{who} {_enters(guard, takers)} {at}{about}, and {does} there{call}"
    does = _does(parting, taker, takers)
    if parting.is_split:
        theirs = _does(parting, 1 - taker, others).removeprefix(" and ")
        rest = f"; {name_ranks(others)} {theirs}" if theirs else ""
        return f"{who} {_enters(guard, takers)} {at}{about},{does or ' and others do not'}{rest}"
    if len(takers) > len(others):
        not_ = f"{name_ranks(others)} {agree(others, 'does', 'do')} not {_enter_arm(guard)} {at}{about}"
        call = parting.calls[taker]
        return f"{not_}{f', where the others call {call}' if call else ''}"
    return f"{who} {_enters(guard, takers)} {at}{about}{',' + does if does else ''}"


def kept_clause(kept: Kept, missing: Missing) -> str:
    """`rank 0 has left `for micro in range(3):`, train.py:3, after 3 sends to rank 1`."""
    guard = kept.guard
    who = name_ranks((missing.rank,))
    at = f"`{guard.text}`, {kept.file.rpartition('/')[2]}:{guard.line}"
    at += f", {_ABOUT[kept.about]}" if kept.about in _ABOUT else ""
    whom = f"{'to' if missing.op == 'send' else 'from'} rank {missing.peer}"
    if guard.is_exit:
        verb = _VERBS[guard.kind][0]
        return f"{who} takes {at}, and {verb} before its {missing.op} {whom}"
    if guard.kind == "loop" and missing.made:
        made = f"{missing.made} {missing.op}{'s' if missing.made > 1 else ''}"
        return f"{who} has left {at}, after {made} {whom}"
    if guard.kind in ("try", "except", "finally"):
        return f"{who} has not come to its {missing.op} {whom} in the {guard.kind} at {at}"
    return f"{who} does not {_enter_arm(guard)} {at}, where it would call {missing.op}"


def _loop_clause(
    parting: Parting, ranks: Ranks, counts: tuple[int, int] | None, at: str, about: str
) -> str:
    taker = parting.taker
    takers, others = ranks[taker], ranks[1 - taker]
    if parting.around is not None:
        at += f" (or in the loop around it, line {parting.around.line})"
    if counts is not None and counts[taker] > counts[1 - taker]:
        call = parting.calls[taker] or "its line"
        calls = f"{name_ranks(takers)} {agree(takers, 'calls', 'call')} {call} in {at}{about}"
        fewer = f"{name_ranks(others)} only {counts[1 - taker]} times"
        return f"{calls}, {counts[taker]} times, {fewer}"
    calls = f", in which {name_ranks(takers)} {_does(parting, taker, takers).removeprefix(' and ')}"
    still = f"{name_ranks(takers)} {agree(takers, 'is', 'are')} still in {at}{about}"
    left = f"{name_ranks(others)} {agree(others, 'is', 'are')} not in {at}{about}"
    return f"{left}{calls if parting.calls[taker] else ''}" if taker == 1 else still


def _does(parting: Parting, side: int, ranks: Sequence[int]) -> str:
    call = parting.calls[side]
    return f" and {agree(ranks, 'calls', 'call')} {call} there" if call else ""


def _enter(guard: Guard) -> str:
    return (
        "take" if guard.kind in ("branch", "conditional", "match", "short_circuit") else "come to"
    )


def _enter_arm(guard: Guard) -> str:
    return f"{_enter(guard)} the else of" if guard.arm == "else" else _enter(guard)


def _enters(guard: Guard, ranks: Sequence[int]) -> str:
    verb = _enter(guard)
    if guard.arm == "else":
        return f"{agree(ranks, verb + 's', verb)} the else of"
    if guard.kind in ("try", "no_sync"):
        before = " the try before" if guard.text.startswith("except") else ""
        return agree(ranks, "is in", "are in") + before
    if guard.arm == "again":
        return agree(ranks, "goes", "go") + " on to the next round by"
    if guard.kind in ("except", "finally", "comprehension"):
        return agree(ranks, "is in", "are in")
    return agree(ranks, verb + "s", verb)


def advice_on_missing(kept: Kept) -> str:
    """What to do about a send or recv that a rank does not make; '' where its finding's own advice is as good."""
    if kept.guard.kind in ("loop", "comprehension"):
        return "Give both ranks the same number of rounds: as many sends on the one as recvs on the other."
    if kept.guard.kind in ("try", "except", "finally") or kept.about == "exception":
        return _EXCEPTION
    if kept.about in ("", "rank"):
        return "Make the condition of the send and that of the recv the same: what one rank skips, its peer must skip."
    return "Let both ranks decide alike: send the decision first, or send something empty instead of nothing."


def advice_on_rounds(about: Topic) -> str:
    """What to do where some ranks skip a call in some rounds of a loop."""
    return _DECIDE.get(
        about, "Let every rank make the call in every round, or skip it on all ranks alike."
    )


def advice_of(parting: Parting, calls_collective: bool) -> str:
    """What to do about it; '' where nothing better is known than the finding's own advice."""
    guard = parting.guard
    if guard.kind == "cached":
        return _CACHED
    if guard.kind == "no_sync":
        return "Enter no_sync for the same micro-batches on every rank."
    if guard.kind in ("try", "except", "finally", "raise") or parting.about == "exception":
        return _EXCEPTION
    if guard.kind == "loop" and parting.about == "rank" and not calls_collective:
        return _HELD_UP
    if guard.kind in ("loop", "comprehension") and parting.about not in (
        "randomness",
        "time",
        "files",
    ):
        return _LOOP
    if parting.about == "rank" and guard.is_exit:
        return "Let every rank make the call before some of them leave, or leave them out with a group of the others."
    if parting.about == "rank" and calls_collective:
        return _alone(parting)
    if parting.about == "rank":
        return _HELD_UP
    return _DECIDE.get(parting.about, "")


def _alone(parting: Parting) -> str:
    if parting.is_split:
        return "Make the same calls in the same order on both ways, or give each way a group of its own."
    return "Call it on every rank, or use a group of only those ranks."
