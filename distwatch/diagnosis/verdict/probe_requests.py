"""What deserves a closer look from outside, once there is a suspicion or a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from distwatch.diagnosis.facts.activity import activity_of, awaited_lock_file
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.movement import flow_of, is_busy
from distwatch.diagnosis.facts.outside_view import largest_ranks
from distwatch.diagnosis.facts.saves import save_phase
from distwatch.diagnosis.facts.user_frame import user_frame, work_frames
from distwatch.diagnosis.why.trails import Step, trail_now, trail_of_call
from distwatch.state.codes import code_of
from distwatch.state.finding import Finding
from distwatch.state.model import SOURCE_FILES_KEPT, Process, RunState

_RANKS = 64
_OPERATIONS = 4
_FILES = 8

Places = dict[str, list[tuple[str, int]]]


def worth_a_native_look(
    state: RunState, findings: Iterable[Finding], jobs: Iterable[Job]
) -> list[str]:
    """Processes that block others and whose Python frames do not show why."""
    blamed = {
        rank
        for finding in findings
        if finding.blocks and finding.role == "root" and code_of(finding.code).native_stack
        for rank in finding.culprit_ranks
    }
    keys: list[str] = []
    if not blamed:
        return []
    for job in jobs:
        for rank in sorted(blamed & set(job.ranks)):
            process = job.ranks[rank]
            if process.ended_ns is not None or job.kernel_state(process) in ("T", "t", "D"):
                continue
            if process.outside.native is None and not _is_plain(state, job, rank):
                keys.append(process.key)
    return keys


def late_ranks(findings: Iterable[Finding]) -> set[int]:
    """Ranks that are called slow, which may stop also when nobody waits for them any more."""
    return {
        rank
        for finding in findings
        if finding.severity == "warning" and code_of(finding.code).lateness
        for rank in finding.culprit_ranks
    }


def late_processes(findings: Iterable[Finding], jobs: Iterable[Job]) -> list[Process]:
    """The processes of the ranks that are called slow."""
    late = late_ranks(findings)
    return [job.ranks[rank] for job in jobs for rank in sorted(late & job.ranks.keys())]


def waiting_beside(state: RunState, jobs: Iterable[Job], host: str) -> list[Process]:
    """Processes of a host with distwatch on that are no rank of a world and wait, those longest not looked at first.

    As an actor of Ray without a rank: nobody in a group waits for it, so no suspicion leads to a look at it.
    """
    within = {one.key for job in jobs for one in job.processes if one.role == "rank"}
    found = [
        process
        for process in state.processes.values()
        if process.host == host
        and process.key not in within
        and process.role in ("rank", "other")
        and _has_distwatch(process)
        and _waits(process)
        and not _may_not_be_looked_at(process)
    ]
    return sorted(found, key=lambda process: process.outside.stack_ns or 0)


def _has_distwatch(process: Process) -> bool:
    seen = process.outside.seen
    return process.instrumented or (seen is not None and seen.instrumented)


def _may_not_be_looked_at(process: Process) -> bool:
    return process.outside.stack is None and "stack" in process.outside.not_observed


def _waits(process: Process) -> bool:
    sample = process.outside.sample
    return process.ended_ns is None and sample is not None and sample.state in ("S", "D")


def runs(process: Process) -> bool:
    """Whether its main thread is on the CPU: more looks show whether it does one thing over and over."""
    flow = flow_of(process)
    return flow is not None and is_busy(flow)


def lines_of_interest(state: RunState) -> Places:
    """By process: unread source lines of the frames that are shown of it and of its newest calls."""
    found: Places = {}
    known = set(state.sources)
    for process in list(largest_ranks(state).values())[:_RANKS]:
        frames = work_frames(process)
        shown = [user_frame(frames), *frames[-1:]]
        places = [(frame.file, frame.line) for frame in shown if frame and not frame.native]
        for operation in process.outside.operations[-_OPERATIONS:]:
            site = process.sites.get(operation.site)
            if site is not None:
                places.append((site.file, site.line))
        new = [place for place in dict.fromkeys(places) if place not in known]
        if new:
            known |= set(new)
            found[process.key] = new
    return found


class WantedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A source file that may show why ranks part, and the process to read it by."""

    file: str
    process: Process
    started_s: float
    """When that process began, by the wall clock."""
    functions: tuple[tuple[int, str], ...]
    """Lines that it has run, each with its function."""


def files_of_interest(state: RunState, host: str, ticks_s: float) -> list[WantedFile]:
    """The unread files of the person's code that ranks of this host are in, or last called from.

    Args:
        ticks_s: seconds of one clock tick.
    """
    found: dict[str, WantedFile] = {}
    if len(state.source_files) >= SOURCE_FILES_KEPT:
        return []
    for process in list(largest_ranks(state).values())[:_RANKS]:
        if process.host != host:
            continue
        described = process.started or process.outside.seen
        began_ns = int((described.start_ticks if described else 0) * ticks_s * 1e9)
        for step in _steps_of(process):
            known = found.get(step.file)
            if step.file in state.source_files or (known is None and len(found) >= _FILES):
                continue
            before = known.functions if known is not None else ()
            if known is None or known.process is process:
                found[step.file] = WantedFile(
                    file=step.file, process=process, started_s=state.wall_ns(host, began_ns) / 1e9,
                    functions=tuple(dict.fromkeys((*before, (step.line, step.function)))),
                )  # fmt: skip
    return list(found.values())


def _steps_of(process: Process) -> Iterator[Step]:
    yield from trail_now(process).steps
    for operation in process.outside.operations[-_OPERATIONS:]:
        yield from trail_of_call(process, operation).steps


def locks_of_interest(state: RunState) -> dict[str, set[str]]:
    """By host: the lock files for which its processes wait, in a load or in a system call."""
    found: dict[str, set[str]] = {}
    for process in state.processes.values():
        if path := awaited_lock_file(process):
            found.setdefault(process.host, set()).add(path)
        pulse = process.outside.pulse
        for load in pulse.loads if pulse and process.ended_ns is None else ():
            for outstanding in load.outstanding:
                if outstanding.waiting == "lock":
                    found.setdefault(process.host, set()).add(outstanding.what)
    return found


def saving(state: RunState) -> dict[str, str]:
    """The processes that save a checkpoint, with what their main thread's system call is about."""
    found: dict[str, str] = {}
    for process in state.processes.values():
        if process.ended_ns is None and save_phase(process):
            sample = process.outside.sample
            found[process.key] = sample.blocked_on if sample is not None else ""
    return found


def _is_plain(state: RunState, job: Job, rank: int) -> bool:
    """Whether the Python frames already show what it does."""
    process = job.ranks[rank]
    if job.is_frozen(process):
        return False
    activity = activity_of(state, process)
    return activity is not None and activity.certain
