"""A rank that still moves something is slow, and one that waits for requests is idle: neither hangs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import msgspec

from distwatch.diagnosis.checks.processes.blocked_ranks import waits_text
from distwatch.diagnosis.facts.activity import activity_of, spins
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.idleness import idle_ranks
from distwatch.diagnosis.facts.movement import (
    compiles,
    flow_of,
    is_busy,
    movement_of,
    patience_s,
)
from distwatch.diagnosis.why.loops import loops_around
from distwatch.state.codes import code_of
from distwatch.state.finding import Evidence, Finding
from distwatch.state.flow import Flow
from distwatch.state.model import Process
from distwatch.state.observer_events import MAIN_THREAD, StackTaken
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.state.steps import COLLECTIVE

SLOW, COMPILING = "collective.straggler", "process.compiling"
_CERTAIN = 0.8
WATCHED_S = 2.0
"""What a rank moves must have been watched for this long before it is said to move nothing."""
LOOKS, FRESH_S = 6, 8.0
"""Two rounds of looks at a rank that runs show whether it does one thing over and over."""
WITHIN_S = 4.0
"""After a deadline; then what is known has to do."""
_COMPUTES = frozenset(("data", "checkpoint", "load", "native"))
_STANDS = frozenset(("debugger", "prompt", "file_lock", "sleep", "collective", "store", "device"))
"""Who is seen in one of these moves nothing: that needs no look at what it moves."""


def tell_slow_from_stuck(
    case: Case, found: Iterable[Finding], *, is_over: bool = False
) -> list[Finding]:
    """The findings, as warnings where their culprits move, and without those about idle ranks.

    Args:
        is_over: the case is of the past: at what nobody has looked, nobody will.
    """
    found = list(found)
    if not any(_needs_standstill(one) or _catches_again(case, one) for one in found):
        return found  # a healthy job of very many ranks is judged each second
    idle = idle_ranks(case.job, case.groups)
    told: dict[tuple[int, ...], Finding] = {}
    kept: list[Finding] = []
    for finding in found:
        culprits = finding.culprit_ranks
        if (
            _catches_again(case, finding)
            and not _has_ended_a_wait(case, culprits)
            and (worked := _all(culprits, case, _computes))
        ):
            # Each bad row of a loop over data costs an exception; whoever tries again is in a loop without an end.
            told.setdefault(culprits, _slow(case, finding, worked))
        elif not _needs_standstill(finding):
            kept.append(finding)
        elif set(culprits) <= idle.keys():
            continue
        elif (
            finding.severity == "hang"
            and not _has_ended_a_wait(case, culprits)
            and (moved := _all(culprits, case, partial(_moves, is_over=is_over)))
        ):
            # One warning for those ranks, whatever else they would be blamed for.
            if culprits not in told or not told[culprits].waiting_ranks:
                told[culprits] = _slow(case, finding, moved)
        else:
            kept.append(finding)
    return [*kept, *told.values()]


def _needs_standstill(finding: Finding) -> bool:
    return bool(finding.culprit_ranks) and code_of(finding.code).needs_standstill


def _catches_again(case: Case, finding: Finding) -> bool:
    """Whether it is about exceptions that are caught one after the other, which work may do as well."""
    if finding.code != "process.exception_pending":
        return False
    held = [p.held_exception for r in finding.culprit_ranks if (p := case.job.ranks.get(r))]
    return all(one is not None and one.times > 1 for one in held)


def _all(ranks: tuple[int, ...], case: Case, look: Callable[[Case, int], str]) -> dict[int, str]:
    """What each of them does; empty where one of them does nothing."""
    found = {rank: look(case, rank) for rank in ranks}
    return found if all(found.values()) else {}


def _has_ended_a_wait(case: Case, ranks: tuple[int, ...]) -> bool:
    """Whether torch's own timeout has already ended a rank that waited for these: it was too slow."""
    waiters = {edge.waiter for rank in ranks for edge in case.graph.awaited_by(rank)}
    return any(wait.timed_out for waiter in waiters for wait in case.job.waits_for(waiter))


def _moves(case: Case, rank: int, *, is_over: bool) -> str:
    """What it moves, or why that is not known yet; '' where it moves nothing."""
    if what := movement_of(case, rank) or _computes(case, rank):
        return what
    process = case.job.ranks.get(rank)
    if process is None or process.ended_ns is not None or not _has_just_passed(case, rank, process):
        return ""
    if (flow := flow_of(process)) is None:
        unseen = not is_over and _will_be_looked_at(case, process)
        return "it is not yet known whether it makes progress: nobody has looked" if unseen else ""
    undecided = "it runs, and it is not yet known whether it makes progress"
    return undecided if _is_undecided(case, process, flow) else ""


def _computes(case: Case, rank: int) -> str:
    """Whether it is in a computation that ends by itself, by its source: for some time that is work."""
    process = case.job.ranks.get(rank)
    if process is None or process.ended_ns is not None:
        return ""
    if case.job.kernel_state(process) in ("T", "t"):
        return ""
    flow, stack = flow_of(process), process.outside.stack
    if case.job.is_frozen(process) and not _main_holds_gil(stack):
        return ""
    busy_s = spins(process) or (0.0 if flow is not None and is_busy(flow) else None)
    activity = activity_of(case.state, process)
    waits = activity is not None and activity.kind not in _COMPUTES
    if busy_s is None or stack is None or waits or busy_s > patience_s(case, process):
        return ""
    loops = loops_around(case.state.source_files, process.main_frames)
    # A loop that calls a short function again and again is seen outside of it, too.
    stays = stack.settled_looks >= LOOKS and not stack.settled_returns
    if loops == "ends" or (loops == "called_again" and stays):
        lasted = f" for {seconds(busy_s)}" if busy_s else ""
        return f"it has computed{lasted}, in no loop that waits for anything"
    return ""


def _main_holds_gil(stack: StackTaken | None) -> bool:
    """Whether its agent is late only since the computation itself keeps it from running."""
    threads = stack.threads if stack is not None else ()
    return any(thread.owns_gil and thread.name == MAIN_THREAD for thread in threads)


def _has_just_passed(case: Case, rank: int, process: Process) -> bool:
    """Whether the deadline of those who wait for it has, and looks at it may still be to come."""
    host = case.state.hosts.get(process.host)
    return _late_s(case, rank) <= WITHIN_S * (host.crowding if host else 1.0)


def _will_be_looked_at(case: Case, process: Process) -> bool:
    """Whether an observer is there to look, and nothing else shows that it does not move."""
    host = case.state.hosts.get(process.host)
    if host is None or not host.observers or "process" in process.outside.not_observed:
        return False  # it is known from dumps, from logs or from its own journal alone
    if case.job.kernel_state(process) in ("T", "t"):
        return False
    activity = activity_of(case.state, process)
    return activity is None or activity.kind not in _STANDS


def _is_undecided(case: Case, process: Process, flow: Flow) -> bool:
    """Whether too few looks show what it does."""
    if flow.at_ns and case.job.age_s(process, flow.at_ns) > FRESH_S:
        return False  # nobody goes on looking at it
    if flow.over_s < WATCHED_S:
        return True
    stack = process.outside.stack
    if not is_busy(flow) or "stack" in process.outside.not_observed:
        return False
    old = stack is None or case.job.age_s(process, process.outside.stack_ns or 0) > FRESH_S
    return old or (stack is not None and stack.looks < LOOKS)


def _late_s(case: Case, rank: int) -> float:
    """For how long some rank has waited for it beyond its deadline; without end where that has given up."""
    late = []
    for edge in case.graph.awaited_by(rank):
        waiter = case.job.ranks[edge.waiter]
        if waiter.ended_ns is not None:
            return math.inf
        late += [wait.waited_s - wait.deadline_s for wait in case.job.waits_for(edge.waiter)]
        step = case.job.innermost_step(waiter)
        limit_s = step.deadline_s if step is not None else None
        late.append(edge.waited_s - (limit_s or case.job.deadline_s(waiter, COLLECTIVE)))
    return max(late, default=math.inf)


def _slow(case: Case, finding: Finding, moved: dict[int, str]) -> Finding:
    compiling = all(compiles(case, rank) for rank in moved)
    return msgspec.structs.replace(
        finding,
        code=COMPILING if compiling else SLOW,
        severity="warning",
        summary=_summary(case, moved, compiling=compiling),
        advice="",
        evidence=(*_evidence(moved), *finding.evidence),
        confidence=min(finding.confidence, _CERTAIN),
    )


def _summary(case: Case, moved: dict[int, str], *, compiling: bool) -> str:
    first = next(iter(moved))
    who = name_ranks(moved, "is", "are")
    place = case.where(first) if len(moved) == 1 else ""
    doing = "compiling" if compiling else "slow, not stuck"
    waits = waits_text(case, first, tuple(sorted(case.graph.behind(moved) - moved.keys())))
    return f"{who} {doing}{', at ' + place if place else ''}: {moved[first]}{waits}"


def _evidence(moved: dict[int, str]) -> Iterator[Evidence]:
    for rank, what in moved.items():
        yield Evidence("proc", f"rank {rank} moves: {what}", rank)
