"""collective.concurrent_threads, collective.site_differs: equal or unequal calls from other threads or lines."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.checks.collectives.entries import differing_calls
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.sequences import Entry, history_of
from distwatch.state.events import Site
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_by, ranks_by

MOST_COMPARED = 64
"""Members of a group whose call sites are compared: those of the others are the same."""
_NEAR = 4
_SAME_DATA = frozenset(("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor"))
"""Where ranks call these from different lines, they put different things together. A barrier has no data,
and what has a src or dst is often called in two branches."""
_MAIN = "the main thread"


class ConcurrentThreads:
    """The members' calls differ, and they were made by different threads, or by a finalizer."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            calls = differing_calls(case, view)
            callers = {rank: _caller(call.site) for rank, call in calls.items() if call.site}
            if len(set(callers.values())) > 1:
                yield self._finding(case, view, calls, callers)

    def _finding(
        self, case: Case, view: GroupView, calls: dict[int, Entry], callers: dict[int, str]
    ) -> Finding:
        seq = next(iter(calls.values())).seq
        mixing = {rank: names for rank in callers if len(names := _near(case, view, rank, seq)) > 1}
        finalized = [rank for rank, caller in callers.items() if "finalizer" in caller]
        odd = tuple(finalized or mixing or callers)
        told = {rank: f"{calls[rank].op} from {caller}" for rank, caller in callers.items()}
        sides = "; ".join(name_by(told, " is in ", " are in "))
        return Finding(
            code="collective.concurrent_threads",
            culprit_ranks=odd,
            waiting_ranks=tuple(rank for rank in view.members if rank not in odd),
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"two threads call collectives of {view.title}, in another order on each rank: at #{seq}, {sides}",
            evidence=(
                *(
                    Evidence(call.source, f"rank {rank}: #{seq} is {call}, {callers[rank]}", rank)
                    for rank, call in list(calls.items())[:8]
                    if rank in callers
                ),
                *_threads_of(case, odd),
            ),
            confidence=0.9,
        )


def _caller(site: Site) -> str:
    return site.caller or _MAIN


def _near(case: Case, view: GroupView, rank: int, seq: int) -> set[str]:
    """Who called the group's collectives around that number."""
    called = case.job.ranks[rank].outside.operations
    sites = case.job.ranks[rank].sites
    return {
        _caller(site)
        for one in called
        if one.pg_name == view.pg_name and abs(one.seq - seq) < _NEAR
        and (site := sites.get(one.site)) is not None
    }  # fmt: skip


def _threads_of(case: Case, ranks: Iterable[int]) -> Iterable[Evidence]:
    """Both stacks of each: where the main thread is, and where the other one is."""
    for rank in list(ranks)[:4]:
        yield case.place(rank)
        stack = case.job.ranks[rank].outside.stack
        for thread in stack.main_first(case.job.ranks[rank].pid)[1:] if stack else ():
            if thread.frames and any("torch/distributed" in frame.file for frame in thread.frames):
                frames = [f for f in thread.frames if "/torch/" not in f.file][-3:]
                calls = " < ".join(f"{f.function} ({f.file}:{f.line})" for f in reversed(frames))
                yield Evidence("stack", f"rank {rank}, thread {thread.name}: {calls}", rank)


class SitesDiffer:
    """A warning: an equal call came from another line on some rank, while nothing is stuck yet."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            if view.on_device or len(view.members) < 2:
                continue
            if found := _first_apart(case, view):
                yield self._finding(case, view, found)

    def _finding(self, case: Case, view: GroupView, calls: dict[int, Entry]) -> Finding:
        seq = next(iter(calls.values())).seq
        sides = sorted(ranks_by({r: str(call.site) for r, call in calls.items()}).values(), key=len)
        decided = len(sides[0]) < len(sides[-1])
        odd = tuple(sorted(sides[0])) if decided else _guest(case, view, calls)
        told = {rank: str(call) for rank, call in calls.items()}
        return Finding(
            code="collective.site_differs",
            severity="warning",
            culprit_ranks=odd,
            waiting_ranks=(),
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"the ranks of {view.title} made collective #{seq} from different lines, so it put different data "
            f"together: {'; '.join(name_by(told, ' called ', ' called '))}",
            evidence=tuple(
                Evidence(call.source, f"rank {rank}: #{seq} is {call}{case.at(call.site)}", rank)
                for rank, call in list(calls.items())[:8]
            ),
            confidence=0.7 if odd else 0.5,
        )


def _first_apart(case: Case, view: GroupView) -> dict[int, Entry] | None:
    """The oldest remembered number at which all made one call, from lines that some of them share elsewhere."""
    histories = {
        rank: _sited(case.job.ranks[rank], view)
        for rank in view.members[:MOST_COMPARED]
        if rank in case.job.ranks
    }
    if len(histories) < 2:
        return None
    for seq in sorted(set.intersection(*(set(history) for history in histories.values()))):
        sites = {rank: history[seq] for rank, history in histories.items()}
        if len(set(sites.values())) > 1 and _is_shared(set(sites.values()), histories):
            calls = {rank: history_of(case, view, rank).get(seq) for rank in sites}
            told = {rank: call for rank, call in calls.items() if call is not None}
            kinds = {(call.op, call.numel, call.dtype) for call in told.values()}
            return told if len(told) == len(calls) and len(kinds) == 1 else None
    return None


def _sited(process: Process, view: GroupView) -> dict[int, tuple[str, int]]:
    """By number, the lines of the group's calls that put data of all members together."""
    return {
        one.seq: (site.file, site.line)
        for one in process.outside.operations
        if one.pg_name == view.pg_name and one.seq >= 0 and one.site
        and operation_name(one.op) in _SAME_DATA
        and (site := process.sites.get(one.site)) is not None
    }  # fmt: skip


def _is_shared(
    sites: set[tuple[str, int]], histories: dict[int, dict[int, tuple[str, int]]]
) -> bool:
    """Whether some rank has called from two of these lines.

    Branches by role, a first stage's line and a last stage's, are each rank's own: that is meant.
    """
    return any(len(sites & set(history.values())) > 1 for history in histories.values())


def _guest(case: Case, view: GroupView, calls: dict[int, Entry]) -> tuple[int, ...]:
    """The one rank whose line there is none of the others' lines, where there is such a rank."""
    used = {rank: set(_sited(case.job.ranks[rank], view).values()) for rank in calls}
    own = {r: (call.site.file, call.site.line) for r, call in calls.items() if call.site}
    guests = [
        rank
        for rank, site in own.items()
        if not any(site in used[other] for other in used if other != rank)
    ]
    return tuple(guests) if len(guests) == 1 else ()
