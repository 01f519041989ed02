"""process.debugger: a rank in a debugger, with or without somebody to answer it."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.activity import activity_of, kernel_evidence
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.signals import end_evidence
from distwatch.state.finding import Finding, Severity
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_ranks
from distwatch.state.steps import INIT

_TERMINAL = ("/dev/pts/", "/dev/tty", "/dev/console")
_QUIT = "BdbQuit"


class Debugged:
    """A rank in a debugger: a hang where nobody can answer it and others wait; otherwise only information."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            if _quit(process):
                yield self._after_end(case, rank, process)
            elif is_debugged(case, rank):
                yield self._finding(case, rank, process)

    def _finding(self, case: Case, rank: int, process: Process) -> Finding:
        waiting = tuple(sorted(case.graph.behind([rank]) | set(case.waiting_for([rank]))))
        overdue = case.graph.is_overdue(rank) or _init_overdue(case, rank)
        intended = debugged_by_intent(case, rank)
        severity: Severity = "hang" if overdue and not intended else "info"
        place = case.where(rank)
        how = _how(process)
        waits = f"; {name_ranks(waiting, 'waits', 'wait')} for it" if waiting else ""
        return Finding(
            code="process.debugger",
            severity=severity,
            culprit_ranks=(rank,),
            waiting_ranks=waiting,
            summary=f"rank {rank} is in a debugger{' at ' + place if place else ''}: {how}{waits}",
            advice="Nothing, if somebody is debugging it; raise the timeout of the process group while you debug."
            if intended
            else "",
            evidence=(*kernel_evidence(process, rank), case.place(rank)),
            confidence=0.95,
        )

    def _after_end(self, case: Case, rank: int, process: Process) -> Finding:
        error = process.exception
        site = f" at {error.site}" if error and error.site else ""
        victims = set(case.deaths.victims) | set(case.waiting_for([rank]))
        return Finding(
            code="process.debugger",
            severity="crash",
            culprit_ranks=(rank,),
            waiting_ranks=tuple(sorted(victims - {rank})),
            summary=f"rank {rank} reached a breakpoint{site} without a terminal: the debugger read the end of "
            "its input and ended the process (BdbQuit)",
            advice="Remove the breakpoint, or set PYTHONBREAKPOINT=0 for jobs without a terminal.",
            evidence=tuple(end_evidence(process, rank)),
            confidence=0.95,
        )


def is_debugged(case: Case, rank: int) -> bool:
    """Whether a rank is in a debugger, by its stack or its kernel task state."""
    process = case.job.ranks.get(rank)
    if process is None or process.ended_ns is not None:
        return False
    if case.job.kernel_state(process) == "t":
        return True
    activity = activity_of(case.state, process)
    return activity is not None and activity.kind == "debugger"


def debugged_by_intent(case: Case, rank: int) -> bool:
    """Whether somebody can answer the debugger: it has a terminal, or a client."""
    if not is_debugged(case, rank):
        return False
    process = case.job.ranks[rank]
    if case.job.kernel_state(process) == "t":
        return True
    frames = process.main_frames
    remote = [f for f in frames if "debugpy" in f.file or "pydevd" in f.file]
    if remote:
        return not any(
            "wait_for_client" in f.function or "wait_for_attach" in f.function for f in frames
        )
    sample = process.outside.sample
    return sample is not None and any(part in sample.blocked_on for part in _TERMINAL)


def _quit(process: Process) -> bool:
    error = process.exception
    return error is not None and error.type_name.rpartition(".")[2] == _QUIT


def _init_overdue(case: Case, rank: int) -> bool:
    if rank in case.waiting or not case.waiting:
        return False
    limits = [
        (other, case.job.limit_s(case.job.ranks[other], step, INIT))
        for other, step in case.waiting.items()
    ]
    return case.job.has_arrived(rank) is False and any(
        case.waiting_s(o) > limit for o, limit in limits
    )


def _how(process: Process) -> str:
    sample = process.outside.sample
    if sample is not None and sample.state == "t":
        return "a tracer (gdb, strace) has stopped it"
    where = sample.blocked_on if sample else ""
    if where.startswith("stdin"):
        return f"it reads {where}"
    return f"it waits on {where}" if where else "what it waits for was not observed"
