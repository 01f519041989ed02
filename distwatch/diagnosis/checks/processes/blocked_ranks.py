"""What blocks a rank that others wait for: process.data_stall, stdin_wait, io_blocked, lock_wait, livelock, …"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.loading.causes import holder_evidence
from distwatch.diagnosis.facts.activity import (
    Activity,
    activity_of,
    awaited_lock_file,
    by_syscall,
    in_native_code,
    kernel_evidence,
    kernel_text,
    on_what,
    peer_text,
    reads_stdin,
    spins,
)
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.children import Child, children_of, died
from distwatch.diagnosis.facts.device_faults import device_evidence
from distwatch.diagnosis.facts.job import was_cut_off
from distwatch.diagnosis.facts.movement import flow_of
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.diagnosis.facts.saves import save_evidence, save_phase
from distwatch.diagnosis.facts.signals import end_evidence, exit_text, first_line
from distwatch.diagnosis.facts.stack_calls import (
    STILL_S,
    is_seen_from_outside,
    settled_s,
    still_s,
)
from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.diagnosis.facts.waits import Edge
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
    "Find the process that holds that lock (`fuser -v FILE`, `lslocks`), and end it. On a shared file system "
    "a lock of another host may have no living owner."
)
_WORKER_GONE = re.compile(r"DataLoader worker \(pid")


class Blocked(msgspec.Struct, frozen=True):
    """Why a rank does not come. `doing` follows the rank's name in the summary."""

    code: str
    doing: str
    evidence: Iterable[Evidence]
    confidence: float
    advice: str = ""


class RanksBlocked:
    """Looks at every rank where a chain of overdue waits ends."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            error = process.exception
            if error is not None and _WORKER_GONE.search(error.message):
                yield _lost_its_worker(case, rank, process)
        roots = awaited_roots(case) | _waiting_for_input(case)
        outside = is_seen_from_outside(case.job)
        for rank in sorted(roots & set(case.job.ranks)):
            process = case.job.ranks[rank]
            if process.ended_ns is not None and not was_cut_off(process):
                continue
            if process.open_call_of(LOAD):
                continue  # its load is judged by the load's deadline
            if outside and process.ended_ns is None and settled_s(process) < STILL_S:
                continue  # one look shows where it is, and only a second one that it stays there
            if case.job.is_frozen(process) or case.job.kernel_state(process) in ("T", "t"):
                continue  # its stack is old: RankStopped and RankFrozen look at it
            if blocked := why_blocked(case, rank, process):
                yield self._finding(case, rank, blocked)

    def _finding(self, case: Case, rank: int, blocked: Blocked) -> Finding:
        place = case.where(rank)
        waiting = tuple(sorted(case.graph.behind([rank]) - {rank}))
        longest = next(iter(case.graph.awaited_by(rank)), None)
        known = case.job.ranks[rank].instrumented
        return Finding(
            code=blocked.code,
            culprit_ranks=(rank,),
            waiting_ranks=waiting,
            pg_name=(longest.pg_name or None) if longest else None,
            pg_desc=_description(case, longest) if longest else None,
            summary=f"rank {rank} {blocked.doing}{', at ' + place if place else ''}{waits_text(case, rank, waiting)}",
            advice=blocked.advice,
            evidence=(*blocked.evidence, *_from_outside(case, rank), case.place(rank)),
            confidence=blocked.confidence if known else min(blocked.confidence, 0.7),
        )


def lost_child(case: Case, rank: int, process: Process) -> Blocked | None:
    """process.worker_died: it waits for a child that has ended by a failure."""
    activity = activity_of(case.state, process)
    dead = died(process, children_of(case, process))
    waits = activity is not None and activity.kind in ("data", "queue", "child")
    if not dead or not (waits or _waits_in_lock(process, activity)):
        return None
    ended = f"{dead[0]}, {exit_text(dead[0].process.outside.exit)}"
    doing = f"waits for a child process that has ended: {ended}"
    return Blocked("process.worker_died", doing, _ends(rank, dead), 0.9)


def why_blocked(case: Case, rank: int, process: Process) -> Blocked | None:
    """What a process waits for, by its stack, its children and the kernel; None: nothing that has a name."""
    if (lost := lost_child(case, rank, process)) is not None:
        return lost
    activity = activity_of(case.state, process)
    kind = activity.kind if activity else ""
    kernel = kernel_evidence(process, rank)
    if case.job.kernel_state(process) == "D" and kind != "data":
        doing = f"is blocked in the kernel{on_what(process)}"
        return Blocked("process.io_blocked", doing, kernel, 0.9)
    if (work := _slow_work(case, process, activity, rank)) is not None:
        return work
    if activity is not None and kind in ("data", "file"):
        return _data_stall(case, rank, process, activity)
    if activity is not None and kind in ("lock", "file_lock"):
        return _lock_wait(case, rank, process, activity)
    if kind == "device" and _waits_for_own_device(case, rank):
        busy = device_evidence(case.job, rank)
        doing = "waits for its own device, whose kernel does not end"
        return Blocked("device.stalled", doing, [*kernel, *busy], 0.85)
    busy_s = spins(process)
    if busy_s is not None and kind not in _NOT_A_LOOP:
        stack = process.outside.stack
        cpu_s = stack.settled_cpu_s if stack and stack.settled_cpu_s is not None else 0.0
        text = f"its main thread wanted {cpu_s:.1f} s of CPU in {seconds(busy_s)} and did not leave that function"
        loop = Evidence("stack", text, rank)
        return Blocked("process.livelock", "runs without making progress", [loop], 0.8)
    if (flow := flow_of(process)) is not None and flow.repeats and kind not in _NOT_A_LOOP:
        doing = f"does the same over and over, and its log says each time: {flow.repeats}"
        return Blocked("process.livelock", doing, kernel, 0.8)
    return None


def _lock_wait(case: Case, rank: int, process: Process, activity: Activity) -> Blocked:
    others = _other_threads(process)
    alone = activity.kind == "lock" and not others and activity.certain
    path = awaited_lock_file(process)
    where = f", {path}" if path and path not in activity.text else ""
    doing = f"waits for {activity.text}{where}" + (
        ", and no other Python thread in it could release that" if alone else ""
    )
    threads = [
        Evidence("stack", f"thread {_thread_text(thread)}", rank)
        for thread in others[:_WORKERS_SHOWN]
    ]
    threads += _lock_holders(case, rank, process)
    advice = _FILE_LOCK_ADVICE if activity.kind == "file_lock" else ""
    sure = 0.9 if activity.certain else 0.7
    return Blocked(
        "process.lock_wait", doing, [*kernel_evidence(process, rank), *threads], sure, advice
    )


def _slow_work(
    case: Case, process: Process, activity: Activity | None, rank: int
) -> Blocked | None:
    """A question, a save, a compilation or a request: they may take long while something moves."""
    kind, kernel = activity.kind if activity else "", kernel_evidence(process, rank)
    if activity is not None and kind == "prompt":
        return Blocked("process.stdin_wait", f"waits for {activity.text}", kernel, 0.95)
    if (phase := save_phase(process)) and kind not in ("collective", "store"):
        doing = f"saves a checkpoint ({phase}) and moves nothing{on_what(process)}"
        files = save_evidence(case, process, rank)
        return Blocked("checkpoint.save_stalled", doing, [*files, *kernel], 0.9)
    if kind == "compile":
        doing = "compiles, and neither it nor its compiler moves anything"
        return Blocked("process.compiling", doing, kernel, 0.8)
    if kind == "network" and (peer := peer_text(process)):
        return Blocked("process.network_wait", f"waits for an answer from {peer}", kernel, 0.9)
    return None


def _waits_for_own_device(case: Case, rank: int) -> bool:
    """Whether no call of another rank is what its device runs, as far as it reports its calls."""
    reports = case.job.ranks[rank].instrumented or rank in case.job.device.queues
    return reports and case.job.device.head(rank) is None


def _lock_holders(case: Case, rank: int, process: Process) -> Iterable[Evidence]:
    host = case.state.hosts.get(process.host)
    looked = host.locks.get(awaited_lock_file(process)) if host else None
    if looked is None:
        return
    yield from holder_evidence(rank, looked)
    if looked.exists and not looked.holders and not looked.says_host and not looked.not_observed:
        age = (
            f"was last written {seconds(looked.age_s)} ago, and" if looked.age_s else "exists, and"
        )
        yield Evidence("proc", f"{looked.path} {age} no process of this host has its lock", rank)


def _data_stall(case: Case, rank: int, process: Process, activity: Activity) -> Blocked:
    workers = [child for child in children_of(case, process) if child.outlived(process)]
    called = by_syscall(process)
    own = called.text if called and called.kind in ("file", "network") else activity.text
    return Blocked(
        "process.data_stall",
        f"waits for data: {_worker_text(workers) or own}",
        [*kernel_evidence(process, rank), *_worker_evidence(rank, workers)],
        0.95 if activity.certain else 0.7,
    )


def _lost_its_worker(case: Case, rank: int, process: Process) -> Finding:
    error = process.exception
    site = f", at {error.site}" if error and error.site else ""
    message = first_line(error.message, 200) if error else ""
    dead = died(process, children_of(case, process))
    victims = (set(case.deaths.victims) | set(case.waiting_for([rank]))) - {rank}
    return Finding(
        code="process.worker_died",
        severity="crash",
        culprit_ranks=(rank,),
        waiting_ranks=tuple(sorted(victims)),
        summary=f"rank {rank} lost a data worker, which ended it: {message}{site}",
        evidence=(*_ends(rank, dead), *end_evidence(process, rank)),
        confidence=0.95,
    )


def _ends(rank: int, dead: list[Child]) -> Iterable[Evidence]:
    for child in dead[:_WORKERS_SHOWN]:
        seen = child.process.outside.exit
        oom = f"; {seen.oom_killed}" if seen and seen.oom_killed else ""
        yield Evidence("exit", f"{child}: {exit_text(seen)}{oom}", rank)


def waits_text(case: Case, rank: int, waiting: tuple[int, ...]) -> str:
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


def _waiting_for_input(case: Case) -> set[int]:
    """Of a job without distwatch: ranks that wait for somebody to type, whoever waits for them."""
    if not is_seen_from_outside(case.job):
        return set()
    ranks = case.job.ranks.items()
    return {rank for rank, p in ranks if still_s(p) >= STILL_S and reads_stdin(p)}


def _waits_in_lock(process: Process, activity: Activity | None) -> bool:
    sample = process.outside.sample
    return (activity is not None and activity.kind == "lock") or (
        activity is None and sample is not None and sample.syscall in ("futex", "poll")
    )


def _worker_text(workers: list[Child]) -> str:
    """The most telling worker: one whose activity has a name."""
    for worker in workers:
        # Idle workers wait in a pipe for work, which says nothing.
        activity = by_syscall(worker.process) or in_native_code(worker.process)
        if activity is not None and "pipe:[" not in activity.text:
            return f"{worker} is {activity.doing}"
    return ""


def _worker_evidence(rank: int, workers: list[Child]) -> Iterable[Evidence]:
    for worker in workers[:_WORKERS_SHOWN]:
        kernel = kernel_text(worker.process)
        frame = user_frame(worker.process.main_frames)
        at = f", at {short_site(frame.file, frame.line, frame.function)}" if frame else ""
        yield Evidence("proc", f"{worker}{': ' + kernel if kernel else ''}{at}", rank)


def _other_threads(process: Process) -> list[ThreadStack]:
    stack = process.outside.stack
    others = stack.main_first(process.pid)[1:] if stack else ()
    return [thread for thread in others if thread.name != "distwatch" and thread.frames]


def _thread_text(thread: ThreadStack) -> str:
    frame = user_frame(thread.frames) or thread.frames[-1]
    name = thread.name or thread.os_thread_id
    return f"{name} is at {short_site(frame.file, frame.line, frame.function)}"
