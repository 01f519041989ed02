"""process.exception_pending, process.thread_died: exceptions that no traceback has shown yet."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.checks.collectives.entries import calls_differ
from distwatch.diagnosis.checks.processes.blocked_ranks import awaited_roots, waits_text
from distwatch.diagnosis.facts.activity import activity_of, spins
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.diagnosis.facts.signals import first_line
from distwatch.state.events import ExceptionHeld, Site, ThreadDied
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process

SETTLED_S = 1.0
_LINES = 6


class ExceptionsHeld:
    """A rank that others wait for, or that calls something else than they do, is handling an exception."""

    def find(self, case: Case) -> Iterable[Finding]:
        suspects = awaited_roots(case) | _in_differing_calls(case)
        held = {
            rank: process.held_exception
            for rank, process in case.job.ranks.items()
            if process.held_exception is not None and process.exception is None
        }
        for rank in sorted(suspects & held.keys()):
            exception = held[rank]
            if exception is not None and not _is_usual(case, rank, exception):
                yield self._finding(case, rank, exception)

    def _finding(self, case: Case, rank: int, held: ExceptionHeld) -> Finding:
        waiting = set(case.graph.behind([rank])) | {
            other for view in case.groups if view.in_flight and rank in view.members
            for other in view.entered
        }  # fmt: skip
        waiting -= {rank}
        place = case.where(rank)
        said = f"{held.type_name}: {first_line(held.message)}".rstrip(": ")
        raised = f", raised at {_short(held.site)}" if held.site else ""
        caught = (
            f"; it is caught by the `try` at {_short(held.caught_at)}" if held.caught_at else ""
        )
        now = f"; it is now at {place}" if place else ""
        if held.times > 1:
            what = f"catches the same exception again and again (seen {held.times} times): {said}{raised}{caught}{now}"
        else:
            what = f"has an exception that nothing has shown yet: {said}{raised}; its handler goes on{now}"
        return Finding(
            code="process.exception_pending",
            culprit_ranks=(rank,),
            waiting_ranks=tuple(sorted(waiting)),
            summary=f"rank {rank} {what}{waits_text(case, rank, tuple(sorted(waiting)))}",
            evidence=(*_held_evidence(case, rank, held), case.place(rank)),
            confidence=0.9,
        )


def _held_evidence(case: Case, rank: int, held: ExceptionHeld) -> Iterable[Evidence]:
    raised = case.at(held.site, ", raised at")
    caught = case.at(held.caught_at, ", caught by the `try` around")
    yield Evidence(
        "journal", f"rank {rank}: {held.type_name}: {held.message[:300]}{raised}{caught}", rank
    )


def _short(site: Site) -> str:
    return short_site(site.file, site.line, site.function)


def _in_differing_calls(case: Case) -> set[int]:
    """Members of groups that do not complete since their calls differ."""
    return {
        rank
        for view in case.groups
        if view.in_flight and view.waited_s >= SETTLED_S and calls_differ(case, view)
        for rank in view.entered
    }


def _is_usual(case: Case, rank: int, held: ExceptionHeld) -> bool:
    """Whether ranks work with it: a program may run in the handler of an ImportError from its beginning to its end."""
    if held.site is not None and held.site.file.startswith("<frozen importlib"):
        return True  # each import asks caches that raise where they have nothing
    alike = [
        process.held_exception
        for process in case.job.ranks.values()
        if process.held_exception and process.held_exception.site == held.site
    ]
    if len(alike) == len(case.job.ranks) and len(alike) > 1:
        return True
    return held.times == 1 and _went_on(case.job.ranks[rank], held.since_ns)


def _went_on(process: Process, since_ns: int) -> bool:
    """Whether it has completed collectives that it called after that."""
    completed = {
        group.pg_name: group.completed
        for group in (process.outside.pulse.groups if process.outside.pulse else ())
    }
    return any(
        operation.entered_ns > since_ns
        and 0 <= operation.seq <= completed.get(operation.pg_name, -1)
        for operation in process.outside.operations
    )


class ThreadsDied:
    """A rank that others wait for waits for something that a thread would have brought, and the thread has died."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank in sorted(awaited_roots(case) & set(case.job.ranks)):
            process = case.job.ranks[rank]
            if (
                process.dead_threads
                and process.ended_ns is None
                and _may_wait_for_thread(case, process)
            ):
                yield self._finding(case, rank, process.dead_threads[-1])

    def _finding(self, case: Case, rank: int, died: ThreadDied) -> Finding:
        waiting = tuple(sorted(case.graph.behind([rank]) - {rank}))
        process = case.job.ranks[rank]
        activity = activity_of(case.state, process)
        doing = f"{activity.doing}, " if activity is not None else ""
        said = f"{died.type_name}: {first_line(died.message)}".rstrip(": ")
        raised = f", raised at {_short(died.site)}" if died.site else ""
        lines = [line for line in died.traceback if line.strip()][-_LINES:]
        return Finding(
            code="process.thread_died",
            culprit_ranks=(rank,),
            waiting_ranks=waiting,
            summary=f"rank {rank} is {doing}but its thread {died.thread} has ended with {said}{raised}"
            f"{'; its main thread is at ' + case.where(rank) if case.where(rank) else ''}"
            f"{waits_text(case, rank, waiting)}",
            evidence=(
                Evidence("journal", "\n".join(lines) or f"thread {died.thread}: {said}", rank),
                case.place(rank),
            ),
            confidence=0.9 if activity is not None else 0.8,
        )


def _may_wait_for_thread(case: Case, process: Process) -> bool:
    """Whether its main thread waits for something that a thread may bring: a queue, a lock, a flag."""
    activity = activity_of(case.state, process)
    if activity is None:
        return bool(process.main_frames)
    return activity.kind in ("queue", "lock", "sleep", "data") or spins(process) is not None
