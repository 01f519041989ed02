"""process.*: ranks that ended, were stopped, or whose interpreter cannot run."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.checks.groups.calls import first_skew
from distwatch.diagnosis.facts.activity import kernel_text, native_frames, on_what
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.communication import CUT
from distwatch.diagnosis.facts.deaths import death_ns, ended_before, ending_signal
from distwatch.diagnosis.facts.exception_origins import began_with
from distwatch.diagnosis.facts.job import FROZEN_AFTER_S
from distwatch.diagnosis.facts.saves import save_evidence, save_phase
from distwatch.diagnosis.facts.signals import (
    REQUESTS,
    end_evidence,
    exit_text,
    first_line,
    signal_name,
)
from distwatch.diagnosis.facts.stack_calls import sleeps_with_gil, still_s
from distwatch.state.events import Frame
from distwatch.state.finding import Evidence, Finding
from distwatch.state.limits import is_short_write
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.state.steps import COLLECTIVE, LOAD

UNSEEN_AFTER_S = 3.0
"""An observer sees the end of a process later than its peers do, and the end of a host never."""


class RankEnded:
    """process.exited, process.killed, process.oom_killed: the first ranks to end, not their victims."""

    def find(self, case: Case) -> Iterable[Finding]:
        deaths = case.deaths
        arrived = {r: p for r, p in deaths.own.items() if self._is_ours(case, r)}
        by_kind: dict[tuple[str, str], list[int]] = {}
        for rank, process in sorted(arrived.items()):
            by_kind.setdefault(_kind_of_death(process), []).append(rank)
        for (code, _), ranks in by_kind.items():
            yield self._finding(case, code, ranks)
        left = list(self._left_early(case))
        yield from left or self._unseen_first(case)

    def _is_ours(self, case: Case, rank: int) -> bool:
        process = case.job.ranks[rank]
        if not process.instrumented and not process.pid and _is_unexplained(process):
            return False  # only its log is left, without an error: it may have ended well
        # A rank that others wait for in the initialization is rendezvous.rank_died.
        return case.job.has_arrived(rank) or not case.waiting

    def _finding(self, case: Case, code: str, ranks: list[int]) -> Finding:
        first = min(ranks, key=lambda rank: death_ns(case.deaths.own[rank]))
        process = case.deaths.own[first]
        requested = case.deaths.stopped_from_outside and ending_signal(process) in REQUESTS
        # A whole world that is gone, and nobody saw how, may have been ended as intended.
        requested = requested or (_is_unexplained(process) and len(ranks) >= (case.job.world or 1))
        victims = set(case.deaths.victims) | set(case.waiting_for(ranks))
        return Finding(
            code=code,
            severity="info" if requested else "crash",
            culprit_ranks=tuple(ranks),
            waiting_ranks=tuple(sorted(victims - set(ranks))),
            summary=_death_summary(case, ranks, process),
            advice=_death_advice(process, requested),
            evidence=tuple(_death_evidence(case, ranks)),
            confidence=0.95 if _status_known(process) or process.exception else 0.6,
        )

    def _left_early(self, case: Case) -> Iterable[Finding]:
        """A rank that ended normally while others still need it."""
        if first_skew(case) is not None:
            return  # mixed-up groups explain that it could end and others could not
        missing = {r for view in case.groups if view.in_flight for r in view.missing}
        gone = sorted(rank for rank in case.deaths.clean if rank in missing)
        if not gone and case.deaths.victims and not case.deaths.own:
            # A rank that had not yet joined the others has not lost them as peers.
            lost = [p for rank, p in case.deaths.victims.items() if rank not in case.waiting]
            first = min((death_ns(process) for process in lost), default=0)
            gone = sorted(r for r, p in case.deaths.clean.items() if ended_before(p, first))
        if not gone:
            return
        waiting = set(case.waiting_for(gone)) | set(case.deaths.victims)
        still_alive = any(case.job.ranks[rank].ended_ns is None for rank in waiting)
        yield Finding(
            code="process.exited",
            severity="hang" if still_alive else "crash",
            culprit_ranks=tuple(gone),
            waiting_ranks=tuple(sorted(waiting)),
            summary=f"{name_ranks(gone)} ended with {exit_text(case.job.ranks[gone[0]].outside.exit)} "
            f"while {name_ranks(waiting)} still needed {agree(gone, 'it', 'them')}",
            advice="Every member of a group must make the same calls: look for an early return, fewer "
            f"batches, or a main() that ends without the last collective on {agree(gone, 'that rank', 'those ranks')}.",
            evidence=(*_death_evidence(case, gone), *_how_far(case, gone)),
            confidence=0.9,
        )

    def _unseen_first(self, case: Case) -> Iterable[Finding]:
        """Ranks that ended because a connection was cut, and nobody was seen to end before them."""
        victims = case.deaths.victims
        cut = sorted(rank for rank, process in victims.items() if _was_cut(process))
        if case.deaths.own or case.waiting or not cut or len(cut) < len(victims):
            return
        lives = any(process.ended_ns is None for process in case.job.ranks.values())
        if lives and all(case.job.age_s(p, death_ns(p)) < UNSEEN_AFTER_S for p in victims.values()):
            return  # the end of whoever was first is about to be seen
        yield Finding(
            code="process.exited",
            severity="crash",
            waiting_ranks=tuple(cut),
            summary=f"{name_ranks(cut)} ended because {agree(cut, 'it', 'each')} lost its connection to a peer or to "
            "the store; who ended first was not seen",
            advice="Look for the rank, the launcher or the host that ended first where distwatch does not look: "
            "their logs, `dmesg`, the scheduler's account.",
            evidence=tuple(e for rank in cut[:8] for e in end_evidence(victims[rank], rank)),
            confidence=0.4,
        )


def _was_cut(process: Process) -> bool:
    """Whether it had a world, and ended by an error that says that the other side had closed."""
    error = process.exception
    if error is None or not process.initialized:
        return False
    return bool(CUT.search(error.message) or CUT.search(error.cause))


def _how_far(case: Case, gone: list[int]) -> Iterable[Evidence]:
    """How many collectives the ranks that left have made, and the ranks that stayed."""
    for view in case.groups:
        numbers = {rank: max(p.enqueued, 0) for rank, p in view.progress.items()}
        left = {rank: numbers[rank] for rank in gone if rank in numbers}
        most = max(numbers.values(), default=0)
        for rank, number in left.items():
            if number < most:
                text = f"rank {rank} has made {number} collectives of {view.title}; others have made {most}"
                yield Evidence("flight_recorder", text, rank)


def _kind_of_death(process: Process) -> tuple[str, str]:
    seen = process.outside.exit
    if process.exception is not None:
        return "process.exited", process.exception.type_name
    if seen is not None and seen.oom_killed:
        return "process.oom_killed", ""
    if seen is not None and seen.signal is not None:
        return "process.killed", str(seen.signal)
    return "process.exited", str(seen.exit_code if seen else None)


def _status_known(process: Process) -> bool:
    seen = process.outside.exit
    return seen is not None and (seen.exit_code is not None or seen.signal is not None)


def _is_unexplained(process: Process) -> bool:
    return process.exception is None and not _status_known(process)


def _death_summary(case: Case, ranks: list[int], process: Process) -> str:
    if process.exception is not None:
        error = process.exception
        place = f" at {case.where(process.global_rank or 0)}" if error.site else ""
        said = f"{first_line(error.message)}{began_with(error)}"
        return f"{name_ranks(ranks)} ended with an uncaught {error.type_name}{place}: {said}"
    if case.deaths.stopped_from_outside:
        names = signal_name(ending_signal(process) or 0)
        return f"somebody ended the whole job: {name_ranks(ranks)} got {names} at once"
    if _is_unexplained(process):
        return f"{name_ranks(ranks)} ended; nobody saw how"
    oom = process.outside.exit.oom_killed if process.outside.exit else None
    tail = f"; {oom}" if oom else ""
    status = exit_text(process.outside.exit)
    verb = "were" if len(ranks) > 1 else "was"
    joined = f"{verb} {status}" if status.startswith("killed") else f"ended: {status}"
    if status.startswith("ended"):
        how = process.outside.exit.how if process.outside.exit else ""
        joined = f"{status} ({how})" if how else status
    return f"{name_ranks(ranks)} {joined}{tail}"


def _death_advice(process: Process, requested: bool) -> str:
    """What to do about this end; '' where its code's advice is enough."""
    if requested:
        return (
            "Nothing, if that was intended: a scheduler's limit, scancel or Ctrl-C looks like this."
        )
    if is_short_write(_all_said(process)):
        return (
            "What it saved could not be written whole: look at that storage (a full disk, a quota, a limit "
            "of files' size, a lost mount)."
        )
    if process.exception is not None:
        return "Fix that exception; the other ranks only lost their peer."
    if ending_signal(process) in (11, 6, 7, 4, 8):
        return "This is a crash in native code: run that rank with `python -X faulthandler` and read its last frames."
    return ""


def _all_said(process: Process) -> str:
    error = process.exception
    return "\n".join((error.message, error.cause, *error.traceback)) if error else ""


def _death_evidence(case: Case, ranks: list[int]) -> Iterable[Evidence]:
    for rank in ranks[:8]:
        yield from end_evidence(case.job.ranks[rank], rank)
    for rank, process in sorted(case.deaths.victims.items())[:4]:
        said = first_line(process.exception.message) if process.exception else ""
        text = said or exit_text(process.outside.exit)
        yield Evidence("exit", f"rank {rank} is a victim that ended later: {text}", rank)


class RankStopped:
    """process.stopped: somebody sent SIGSTOP, or a shell suspended the job."""

    def find(self, case: Case) -> Iterable[Finding]:
        stopped = [r for r, p in case.job.ranks.items() if case.job.kernel_state(p) == "T"]
        if not stopped:
            return
        yield Finding(
            code="process.stopped",
            culprit_ranks=tuple(stopped),
            waiting_ranks=case.waiting_for(stopped),
            summary=f"{name_ranks(stopped, 'is', 'are')} stopped (SIGSTOP or SIGTSTP): the kernel does not run "
            f"{agree(stopped, 'it', 'them')}",
            advice="Resume with "
            + "; ".join(f"`kill -CONT {case.job.ranks[r].pid}`" for r in stopped[:8])
            + f", but first ask who stopped {agree(stopped, 'it', 'them')} (a debugger, a scheduler, Ctrl-Z).",
            evidence=tuple(
                Evidence(
                    "proc",
                    f"pid {case.job.ranks[rank].pid} on {case.job.ranks[rank].host}: state T (stopped)",
                    rank,
                )
                for rank in stopped[:8]
            ),
        )


class RankFrozen:
    """process.gil_held, process.io_blocked: the process is alive, but its interpreter runs nothing."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            age = case.job.heartbeat_s(process)
            loads = process.open_call_of(LOAD) is not None
            if not process.instrumented and not loads and sleeps_with_gil(process):
                lasted = f"its stack has not changed for {seconds(still_s(process))}"
                yield self._finding(case, rank, process, lasted, 0.7)
                continue
            if (
                age is None
                or not case.job.is_frozen(process)
                or case.job.kernel_state(process) == "T"
            ):
                continue
            limit = case.job.deadline_s(process, COLLECTIVE)
            needed = any(v.overdue and rank in v.missing for v in case.groups)
            if age <= limit and not needed:
                continue
            if loads:
                continue  # its load is judged by the load's deadline, with the phase and the file
            if not self._is_certain(case, process, age):
                continue
            yield self._finding(
                case, rank, process, f"its last heartbeat is {seconds(age)} old", 0.95
            )

    def _is_certain(self, case: Case, process: Process, age: float) -> bool:
        """A stack in which no thread owns the GIL shows that only the agent's thread is late."""
        if case.job.kernel_state(process) == "D" or process.outside.stack is None:
            return age > 2 * FROZEN_AFTER_S
        return any(thread.owns_gil for thread in process.outside.stack.threads)

    def _finding(
        self, case: Case, rank: int, process: Process, lasted: str, confidence: float
    ) -> Finding:
        in_kernel = case.job.kernel_state(process) == "D"
        owner = gil_owner(process)
        kernel = kernel_text(process) or "state not observed"
        place = case.where(rank)
        at = f" at {place}" if place else ""
        inner = native_frames(process)
        native = f" ({_library_call(inner[-1])})" if inner else ""
        cause = (
            f"is blocked in the kernel{on_what(process)}{at}"
            if in_kernel
            else f"holds the GIL in native code{native}{at}, so none of its Python threads can run"
        )
        code = "process.io_blocked" if in_kernel else "process.gil_held"
        saved: Iterable[Evidence] = ()
        if phase := save_phase(process):
            saved = save_evidence(case, process, rank)
            code = "checkpoint.save_stalled"
            cause = f"saves a checkpoint ({phase}){on_what(process)} and {cause}"
        return Finding(
            code=code,
            culprit_ranks=(rank,),
            waiting_ranks=case.waiting_for([rank]),
            summary=f"rank {rank} {cause}; {lasted}",
            evidence=(
                Evidence(
                    "pulse" if process.instrumented else "stack",
                    f"{lasted}; process {kernel}",
                    rank,
                ),
                Evidence("stack", owner or "who holds the GIL was not observed", rank),
                *saved,
                *_native_evidence(rank, inner),
                case.place(rank),
            ),
            confidence=confidence if owner or in_kernel else 0.6,
        )


def _library_call(frame: Frame) -> str:
    library = frame.file.rpartition("/")[2]
    return f"`{frame.function}`, {library}" if library else f"`{frame.function}`"


def _native_evidence(rank: int, frames: tuple[Frame, ...]) -> Iterable[Evidence]:
    if frames:
        calls = " < ".join(_library_call(frame) for frame in reversed(frames[-6:]))
        yield Evidence("stack", f"native frames, innermost first: {calls}", rank)


def gil_owner(process: Process) -> str:
    """The thread that holds the GIL and its innermost frame, as py-spy saw it; '' if it saw none."""
    for thread in process.outside.stack.threads if process.outside.stack else ():
        if thread.owns_gil and thread.frames:
            frame = thread.frames[-1]
            name = thread.name or thread.os_thread_id
            return f"thread {name} owns the GIL in {frame.function} ({frame.file}:{frame.line})"
    frames = process.main_frames
    if process.outside.stack and frames:
        frame = frames[-1]
        return f"main thread's innermost Python frame: {frame.function} ({frame.file}:{frame.line})"
    return ""
