"""process.data_stall, io_blocked, lock_wait, livelock, worker_died: what blocks a rank that others wait for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.diagnosis.facts.activity import (
    Activity,
    activity_of,
    by_syscall,
    in_native_code,
    spins,
)
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.children import Child, children_of, died
from distwatch.diagnosis.facts.job import was_cut_off
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.diagnosis.facts.signals import exit_text
from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.diagnosis.facts.wait_for import Edge
from distwatch.state.events import ThreadStack
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.state.steps import LOAD

_NOT_A_LOOP = ("collective", "store", "data", "compile", "checkpoint", "debugger", "device")
_WORKERS_SHOWN = 4
_WAITS_SHOWN = 3
_FILE_LOCK_ADVICE = (
    "Find the process that holds that lock (`fuser -v FILE`, `lslocks`), and end it; on a shared file system "
    "a lock of another host may have no living owner."
)
_WORKER_GONE = re.compile(r"DataLoader worker \(pid")


class RanksBlocked:
    """Looks at every rank where a chain of overdue waits ends."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            error = process.exception
            if error is not None and _WORKER_GONE.search(error.message):
                yield self._lost_its_worker(case, rank, process)
        for rank in sorted(awaited_roots(case) & set(case.job.ranks)):
            process = case.job.ranks[rank]
            if process.ended_ns is not None and not was_cut_off(process):
                continue
            if process.open_call_of(LOAD):
                continue  # load.* reports it
            if case.job.is_frozen(process) or case.job.kernel_state(process) in ("T", "t"):
                continue  # process.stopped, gil_held and io_blocked report it
            if finding := self._of_rank(case, rank, process):
                yield finding

    def _of_rank(self, case: Case, rank: int, process: Process) -> Finding | None:
        activity = activity_of(case.state, process)
        kind = activity.kind if activity else ""
        dead = died(process, children_of(case, process))
        if dead and (kind in ("data", "queue", "child") or _waits_in_lock(process, activity)):
            return self._worker_died(case, rank, activity, dead)
        if case.job.kernel_state(process) == "D" and kind != "data":
            return self._io_blocked(case, rank, process)
        if activity is not None and kind in ("data", "file"):
            return self._data_stall(case, rank, process, activity)
        if activity is not None and kind in ("lock", "file_lock"):
            return self._lock_wait(case, rank, process, activity)
        busy_s = spins(process)
        if busy_s is not None and kind not in _NOT_A_LOOP:
            return self._livelock(case, rank, process, busy_s)
        return None

    def _worker_died(
        self, case: Case, rank: int, activity: Activity | None, dead: list[Child]
    ) -> Finding:
        first = dead[0]
        return self._finding(
            case,
            rank,
            code="process.worker_died",
            doing=f"waits for a child process that has ended: {first}, {exit_text(first.process.outside.exit)}",
            evidence=[Evidence("exit", _end_of(child), rank) for child in dead[:_WORKERS_SHOWN]],
            confidence=0.9,
        )

    def _lost_its_worker(self, case: Case, rank: int, process: Process) -> Finding:
        error = process.exception
        message = error.message.strip().splitlines()[0][:200] if error else ""
        site = f", at {error.site}" if error and error.site else ""
        dead = died(process, children_of(case, process))
        victims = (set(case.deaths.victims) | set(case.waiting_for([rank]))) - {rank}
        return Finding(
            code="process.worker_died",
            severity="crash",
            culprit_ranks=(rank,),
            waiting_ranks=tuple(sorted(victims)),
            summary=f"rank {rank} lost a data worker, which ended it: {message}{site}",
            evidence=(
                *(Evidence("exit", _end_of(child), rank) for child in dead[:_WORKERS_SHOWN]),
                Evidence("journal", "\n".join(error.traceback[-6:]) if error else "", rank),
            ),
            confidence=0.95,
        )

    def _data_stall(self, case: Case, rank: int, process: Process, activity: Activity) -> Finding:
        workers = [child for child in children_of(case, process) if child.outlived(process)]
        called = by_syscall(process)
        own = called.text if called and called.kind in ("file", "network") else activity.text
        return self._finding(
            case,
            rank,
            code="process.data_stall",
            doing=f"waits for data: {_worker_text(workers) or own}",
            evidence=[*_sample_evidence(rank, process), *_worker_evidence(case, rank, workers)],
            confidence=0.95 if activity.certain else 0.7,
        )

    def _io_blocked(self, case: Case, rank: int, process: Process) -> Finding:
        sample = process.outside.sample
        blocked_on = f" on {sample.blocked_on}" if sample and sample.blocked_on else ""
        return self._finding(
            case,
            rank,
            code="process.io_blocked",
            doing=f"is blocked in the kernel{blocked_on}",
            evidence=[*_sample_evidence(rank, process)],
            confidence=0.9,
        )

    def _lock_wait(self, case: Case, rank: int, process: Process, activity: Activity) -> Finding:
        others = _other_threads(process)
        alone = activity.kind == "lock" and not others and activity.certain
        return self._finding(
            case,
            rank,
            code="process.lock_wait",
            doing=f"waits for {activity.text}"
            + (", and no other Python thread in it could release that" if alone else ""),
            advice=_FILE_LOCK_ADVICE if activity.kind == "file_lock" else "",
            evidence=[
                *_sample_evidence(rank, process),
                *(
                    Evidence("stack", f"thread {_thread_text(thread)}", rank)
                    for thread in others[:_WORKERS_SHOWN]
                ),
            ],
            confidence=0.9 if activity.certain else 0.7,
        )

    def _livelock(self, case: Case, rank: int, process: Process, busy_s: float) -> Finding:
        stack = process.outside.stack
        cpu = stack.settled_cpu_s if stack and stack.settled_cpu_s is not None else 0.0
        return self._finding(
            case,
            rank,
            code="process.livelock",
            doing="runs without making progress",
            evidence=[
                Evidence(
                    "stack",
                    f"its main thread has used {cpu:.1f} s of CPU in {seconds(busy_s)} without leaving "
                    "that function",
                    rank,
                )
            ],
            confidence=0.8,
        )

    def _finding(
        self,
        case: Case,
        rank: int,
        *,
        code: str,
        doing: str,
        evidence: list[Evidence],
        confidence: float,
        advice: str = "",
    ) -> Finding:
        place = case.where(rank)
        waiting = tuple(sorted(case.graph.behind([rank]) - {rank}))
        longest = next(iter(case.graph.awaited_by(rank)), None)
        return Finding(
            code=code,
            culprit_ranks=(rank,),
            waiting_ranks=waiting,
            pg_name=(longest.pg_name or None) if longest else None,
            pg_desc=_description(case, longest) if longest else None,
            summary=f"rank {rank} {doing}{', at ' + place if place else ''}{_waits_text(case, rank, waiting)}",
            advice=advice,
            evidence=(*evidence, *_from_outside(case, rank), case.place(rank)),
            confidence=confidence if case.job.ranks[rank].instrumented else min(confidence, 0.7),
        )


def _waits_text(case: Case, rank: int, waiting: tuple[int, ...]) -> str:
    """Who waits for the rank and for how long; and in which call, for ranks that wait for it directly."""
    direct = case.graph.awaited_by(rank)
    if not direct:
        return ""
    waiters_in: dict[str, set[int]] = {}
    for edge in direct:
        waiters_in.setdefault(edge.what, set()).add(edge.waiter)
    lasted = f"for {seconds(direct[0].waited_s)}"
    waits = f"; {name_ranks(waiting, 'has', 'have')} waited for it"
    if set(waiting) == waiters_in[direct[0].what]:
        return f"{waits} in {direct[0].what} {lasted}"
    # By rank, not by time: neighbours in a pipeline begin to wait almost at once.
    calls = sorted(waiters_in.items(), key=lambda call: min(call[1]))
    named = [f"{name_ranks(sorted(ranks))} in {what}" for what, ranks in calls[:_WAITS_SHOWN]]
    more = [f"{len(calls) - _WAITS_SHOWN} more"] if len(calls) > _WAITS_SHOWN else []
    return f"{waits} {lasted} ({', '.join(named + more)})"


def _description(case: Case, edge: Edge) -> str | None:
    group = case.job.ranks[edge.waiter].groups.get(edge.pg_name)
    return (group.pg_desc or None) if group else None


def _from_outside(case: Case, rank: int) -> Iterable[Evidence]:
    if not case.job.ranks[rank].instrumented:
        text = f"rank {rank} runs without distwatch: it was only seen from outside"
        yield Evidence("proc", text, rank)


def awaited_roots(case: Case) -> set[int]:
    """Ranks that wait for nobody, and for which others have waited too long."""
    return {rank for rank in case.graph.roots() if case.graph.is_overdue(rank)}


def _waits_in_lock(process: Process, activity: Activity | None) -> bool:
    sample = process.outside.sample
    return (activity is not None and activity.kind == "lock") or (
        activity is None and sample is not None and sample.syscall in ("futex", "poll")
    )


def _end_of(child: Child) -> str:
    seen = child.process.outside.exit
    oom = f"; {seen.oom_killed}" if seen and seen.oom_killed else ""
    return f"{child}: {exit_text(seen)}{oom}"


def _worker_text(workers: list[Child]) -> str:
    """The most telling worker: one whose activity has a name."""
    for worker in workers:
        # Idle workers wait in a pipe for work, which says nothing.
        activity = by_syscall(worker.process) or in_native_code(worker.process)
        if activity is not None and "pipe:[" not in activity.text:
            return f"{worker} is {activity.doing}"
    return ""


def _worker_evidence(case: Case, rank: int, workers: list[Child]) -> Iterable[Evidence]:
    for worker in workers[:_WORKERS_SHOWN]:
        sample = worker.process.outside.sample
        frame = user_frame(worker.process.main_frames)
        text = str(worker)
        if sample is not None:
            text += f": state {sample.state}"
            text += f", in {sample.syscall}" if sample.syscall else ""
            text += f" on {sample.blocked_on}" if sample.blocked_on else ""
        if frame is not None:
            text += f", at {short_site(frame.file, frame.line, frame.function)}"
        yield Evidence("proc", text, rank)


def _sample_evidence(rank: int, process: Process) -> Iterable[Evidence]:
    sample = process.outside.sample
    if sample is not None and (sample.syscall or sample.blocked_on):
        subject = f" on {sample.blocked_on}" if sample.blocked_on else ""
        text = f"process state {sample.state}, in {sample.syscall or 'no system call'}{subject}"
        yield Evidence("proc", text, rank)


def _other_threads(process: Process) -> list[ThreadStack]:
    stack = process.outside.stack
    others = stack.main_first(process.pid)[1:] if stack else ()
    return [thread for thread in others if thread.name != "distwatch" and thread.frames]


def _thread_text(thread: ThreadStack) -> str:
    frame = user_frame(thread.frames) or thread.frames[-1]
    name = thread.name or thread.os_thread_id
    return f"{name} is at {short_site(frame.file, frame.line, frame.function)}"
