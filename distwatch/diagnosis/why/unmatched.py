"""What keeps a rank from the send or recv that its peer waits for.

The two calls of a pair stand in different branches by their nature: what separates the peers tells nothing. The
line of the missing call is looked for, where this rank or another one has made it before, or where the source
has it beside the peer's, and what guards it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.peer_waits import PeerWait
from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.options import Option, scored
from distwatch.diagnosis.why.parting import level_of, may_leave_by, unshared
from distwatch.diagnosis.why.places import Place, Sources, places_of
from distwatch.diagnosis.why.source import FUNCTIONS, Scope, Source, called_name, within
from distwatch.diagnosis.why.topics import Topic
from distwatch.diagnosis.why.trails import Step, Trail, trail_now, trail_of_call
from distwatch.state.finding import Finding

_CALLED = {"send": ("send", "isend"), "recv": ("recv", "irecv")}
_RANKS = 64
_TRIES = 1.0
_SHARED = 0.4
"""Less for what the peer's call is under, too: the peer came to its call."""
_UNTOLD_EXIT, _UNTOLD = 0.75, 0.5
"""Of a guard of which the source does not tell what it depends on: it still is the only way past the call."""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A call that a rank has not made, and where that rank is instead.

    Attributes:
        op: `send` or `recv`.
        made: how many of them this rank has made for that peer; None where that was not observed.
        call: the lines that lead to the call.
        peers: the lines that lead to the peer's call, which waits.
    """

    rank: int
    peer: int
    op: str
    made: int | None
    now: Trail
    call: Trail
    peers: Trail


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The guard that keeps a rank from a call."""

    guard: Guard
    about: Topic
    file: str
    step: Step
    """The call's line in the function of that guard."""


def missing_calls(case: Case, finding: Finding, sources: Sources) -> Iterator[Missing]:
    """The calls that ranks of a finding wait for, with each line at which the call may be made."""
    for rank in (*finding.waiting_ranks[:_RANKS], *finding.culprit_ranks[:_RANKS]):
        wait = case.job.peer_waits.get(rank)
        if wait is None or wait.peer_rank not in finding.culprit_ranks:
            continue
        theirs = case.job.peer_waits.get(wait.peer_rank)
        if theirs is not None and theirs.peer_rank == rank:
            continue  # each waits for the other: neither has skipped anything
        yield from _missing(case, wait, sources)


def _missing(case: Case, wait: PeerWait, sources: Sources) -> Iterator[Missing]:
    rank, process = wait.peer_rank, case.job.ranks.get(wait.peer_rank)
    now = trail_now(process) if process is not None else Trail()
    waiter = case.job.ranks[wait.global_rank]
    own = [one for one in waiter.outside.operations if operation_name(one.op) == wait.op]
    peers = trail_of_call(waiter, own[-1]) if own else trail_now(waiter)
    op = "recv" if wait.op == "send" else "send"
    if not now.is_known or not peers.steps:
        return
    for call in _lines(case, rank, op, peers, sources):
        yield Missing(
            rank=rank, peer=wait.global_rank, op=op, made=wait.answered, now=now, call=call, peers=peers
        )  # fmt: skip


def _lines(case: Case, rank: int, op: str, peers: Trail, sources: Sources) -> Iterator[Trail]:
    """Where the call is made: by this rank before, by other ranks, by the source beside the peer's call."""
    others = [one for one in sorted(case.job.ranks) if one != rank]
    for maker in (rank, *others[:_RANKS]):
        process = case.job.ranks.get(maker)
        if process is None:
            continue
        for made in reversed(process.outside.operations):
            if operation_name(made.op) == op and (trail := trail_of_call(process, made)).steps:
                yield msgspec.structs.replace(trail, called=_CALLED[op])
                break
    for number in range(len(peers.steps) - 1, -1, -1):
        step = peers.steps[number]
        source = sources(step.file)
        scope = source.scope_at(step.line, step.function) if source is not None else None
        if source is None or scope is None:
            continue
        for inner in _calls_in(source, scope, step, op):
            yield Trail(steps=(*peers.steps[:number], *inner), called=_CALLED[op])


def _calls_in(source: Source, scope: Scope, step: Step, op: str) -> Iterator[tuple[Step, ...]]:
    """The lines of a function that make such a call, or that call a function of this file that makes one."""
    for node in within(scope):
        if not isinstance(node, ast.Call):
            continue
        name, line = called_name(node), Step(step.file, node.lineno, step.function)
        if name in _CALLED[op]:
            yield (line,)
        for function in source.functions(name)[:1]:
            if function is not scope and isinstance(function, FUNCTIONS):
                yield from (
                    (line, Step(step.file, call.lineno, name))
                    for call in within(function)
                    if isinstance(call, ast.Call) and called_name(call) in _CALLED[op]
                )


def keeping_from(missing: Missing, sources: Sources) -> Kept | None:
    """What keeps that rank from the call; None where the source does not show it."""
    level = level_of(missing.now, missing.call)
    if level is None:
        return None
    here, there = (places_of(trail, sources) for trail in (missing.now, missing.call))
    peers = [
        guard for place in filter(None, places_of(missing.peers, sources)) for guard in place.guards
    ]
    options: list[Option] = []
    for number, place in enumerate(there[level:], level):
        mine = here[number] if number == level and number < len(here) else None
        for guard in unshared(place, mine) if place is not None else ():
            if place is not None and not (_is_role(guard, peers) or _is_past(guard, mine)):
                shared = any(guard.is_shared_with(other) for other in peers)
                options += _weighed(place, guard, missing, _SHARED if shared else 0.0)
    best = max(options, key=lambda option: option.score, default=None)
    if best is None:
        return None
    about = best.about if best.about != "constant" else ""
    return Kept(guard=best.guard, about=about, file=best.place.step.file, step=best.place.step)


def _is_role(guard: Guard, peers: list[Guard]) -> bool:
    """Whether the peer is in another arm of it: so one side sends, and the other receives."""
    return not guard.is_exit and any(
        guard.node is other.node and guard.arm != other.arm for other in peers
    )


def _is_past(guard: Guard, mine: Place | None) -> bool:
    return guard.is_exit and not may_leave_by(guard, mine)


def _weighed(place: Place, guard: Guard, missing: Missing, less: float) -> Iterator[Option]:
    found = list(scored(place, guard, 1, missing.now, less, None))
    for option in found:
        if guard.kind == "try":
            # It may have left the `try` by an exception, and nothing shows one.
            option = msgspec.structs.replace(option, score=_TRIES - less)
        yield option
    if not found and not missing.now.raised:
        score = (_UNTOLD_EXIT if guard.is_exit else _UNTOLD) - less
        yield Option(score=score, guard=guard, about="", side=1, place=place)
