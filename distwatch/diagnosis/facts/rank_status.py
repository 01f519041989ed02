"""The status of each rank, in one word, for every view."""

from __future__ import annotations

from itertools import islice

import msgspec

from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.collective_wait import Wait
from distwatch.diagnosis.facts.deaths import ended_by_ray
from distwatch.diagnosis.facts.group_views import groups_of
from distwatch.diagnosis.facts.idleness import awaits_requests, idle_ranks
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.loads import load_under_way
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.diagnosis.facts.signals import exit_text
from distwatch.diagnosis.facts.training import phase_of, place_in_training, training_of
from distwatch.diagnosis.facts.user_frame import user_frame, work_frames
from distwatch.state.model import Process, RunState, Step
from distwatch.state.statuses import IDLE, status_of
from distwatch.state.steps import INIT, kind_of
from distwatch.visible_text import shorten

MOST_UNSEEN = 1 << 14
"""Ranks that nobody saw are listed up to here: a world of any size can be claimed by one process."""
_WAITS_FROM_S = 1.0


class RankStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One expected rank. `since_s`: seconds since it last moved or ended, on its host's clock."""

    global_rank: int
    process: str | None = None
    host: str = ""
    pid: int | None = None
    word: str = "unobserved"
    letter: str = "."
    doing: str = ""
    where: str = ""
    since_s: float | None = None
    heartbeat_s: float | None = None
    instrumented: bool = False
    blocked: bool = False
    step: int | None = None
    """The training step that it is at; None where it has told none."""
    phase: str = ""
    """forward, backward, optimizer, evaluation, save; '' where its stack shows none of them."""


def rank_statuses(state: RunState, job: Job | None = None) -> list[RankStatus]:
    """One for each expected rank, ordered by global rank; unobserved ones up to MOST_UNSEEN."""
    job = job or largest_job(state)
    unseen = (rank for rank in range(job.world or 0) if rank not in job.ranks)
    expected = sorted([*job.ranks, *islice(unseen, MOST_UNSEEN)])
    found = [rank_status(job, global_rank) for global_rank in expected]
    return _with_loading_peers(job, _with_idle(job, found))


def _with_idle(job: Job, found: list[RankStatus]) -> list[RankStatus]:
    """A rank that waits for requests, and that others wait for, is idle."""
    may_be = [
        s.global_rank for s in found if s.word == "running" and awaits_requests(job, s.global_rank)
    ]
    idle = idle_ranks(job, groups_of(job)) if may_be else {}
    status = status_of(IDLE)
    return [
        msgspec.structs.replace(
            one,
            word=status.word,
            letter=status.letter,
            doing=f"waits for requests: {idle[one.global_rank]}",
        )
        if one.global_rank in idle
        else one
        for one in found
    ]


def _with_loading_peers(job: Job, found: list[RankStatus]) -> list[RankStatus]:
    """A rank that waits in a collective for ranks that load a model also shows their progress."""
    loading = {rank: text for rank in job.ranks if (text := _load_text(job, rank))}
    if not loading:
        return found
    awaited: dict[int, int] = {}
    for view in groups_of(job):
        missing = [rank for rank in view.missing if rank in loading]
        if view.in_flight and missing:
            awaited |= dict.fromkeys(view.entered, missing[0])
    return [
        msgspec.structs.replace(
            one,
            doing=f"{one.doing}, for rank {awaited[one.global_rank]}: {loading[awaited[one.global_rank]]}",
        )
        if one.word == "waiting" and one.global_rank in awaited
        else one
        for one in found
    ]


def _load_text(job: Job, global_rank: int) -> str:
    load = load_under_way(job, global_rank)
    return f"{load.text} of {load.arguments.checkpoint}" if load else ""


def rank_status(job: Job, global_rank: int) -> RankStatus:
    """The status of one rank."""
    process = job.ranks.get(global_rank)
    if process is None:
        return RankStatus(global_rank=global_rank, doing="no process was seen")
    word, doing, since_ns = _word(job, process)
    status = status_of(word)
    return RankStatus(
        global_rank=global_rank,
        process=process.key,
        host=process.host,
        pid=process.pid,
        word=word,
        letter=status.letter,
        doing=" · ".join(filter(None, (doing, place_in_training(process)))),
        where=where(process),
        since_s=None if since_ns is None else _age_s(job, process, since_ns),
        heartbeat_s=None if process.ended_ns else job.heartbeat_s(process),
        instrumented=process.instrumented,
        blocked=status.blocks,
        step=at.step if (at := training_of(process)) else None,
        phase=phase_of(process),
    )


def _age_s(job: Job, process: Process, since_ns: int) -> float:
    """Seconds on the host's clock, which goes on after the process has ended."""
    host = job.state.hosts.get(process.host)
    now_ns = host.now_ns if host else process.last_ns
    return max(0.0, (now_ns - since_ns) / 1e9)


def where(process: Process) -> str:
    """The innermost frame of the user's code, or where it ended; '' where nobody looked."""
    site = process.exception.site if process.exception else None
    if site is not None:
        return short_site(site.file, site.line, site.function)
    frame = user_frame(work_frames(process))
    return short_site(frame.file, frame.line, frame.function) if frame else ""


def short_site(file: str, line: int, function: str) -> str:
    """`train.py:42 in step`."""
    return f"{file.rpartition('/')[2]}:{line} in {function}"


def _word(job: Job, process: Process) -> tuple[str, str, int | None]:
    if process.ended_ns is not None:
        word, text, since_ns = _ended_word(job, process)
        last = _last_status(job, process)
        return word, f"{text}; {last}" if last else text, since_ns
    if job.kernel_state(process) == "T":
        return "stopped", "stopped by a signal (SIGSTOP or SIGTSTP)", _beat_ns(process)
    step = job.innermost_step(process)
    if job.is_frozen(process):
        held = "in the kernel" if job.kernel_state(process) == "D" else "the GIL is held"
        return "frozen", f"{_step_text(step) + ' · ' if step else ''}{held}", _beat_ns(process)
    if step is not None:
        return _step_word(process), _step_text(step), step.moved_ns
    return _running_word(job, process)


def _step_word(process: Process) -> str:
    """The purpose of the outermost step; an initialization counts even inside a load."""
    kinds = [kind for step in process.open_steps() if (kind := kind_of(step.name))]
    return INIT.status if INIT in kinds or not kinds else kinds[0].status


def _running_word(job: Job, process: Process) -> tuple[str, str, int | None]:
    if wait := _wait(job, process):
        return "waiting", *wait
    if not process.instrumented:
        inside = job.in_collective_by_stack(process)
        unchanged = process.outside.stack.unchanged_since_ns if process.outside.stack else None
        if inside:
            return "waiting", f"{inside} (by its stack)", unchanged
        return "running", _activity_text(job, process) or "without distwatch", unchanged
    moved = [g.changed_ns for g in (process.outside.pulse.groups if process.outside.pulse else ())]
    if not process.confirmed and not process.steps:
        return "starting", "not initialized yet", process.started_ns
    doing = _absence(job, process) or _last_collective(process) or _last_peer_call(process)
    called = [o.left_ns or o.entered_ns for o in process.outside.operations[-1:]]
    return "running", doing, max(moved or called, default=process.last_ns)


def _wait(job: Job, process: Process) -> tuple[str, int] | None:
    """The collective, send or recv that a rank waits in, and since when."""
    global_rank = process.global_rank or 0
    longest = max(job.waits_for(global_rank), key=lambda wait: wait.waited_s, default=None)
    if longest is not None and longest.waited_s >= _WAITS_FROM_S:
        since_ns = job.now_ns(process) - int(longest.waited_s * 1e9)
        return _wait_text(job, process, longest), since_ns
    peer = job.peer_waits.get(global_rank)
    if peer is not None and job.peer_waited_s(peer) >= _WAITS_FROM_S:
        return str(peer), peer.entered_ns
    return None


def _activity_text(job: Job, process: Process) -> str:
    activity = activity_of(job.state, process)
    return activity.doing if activity is not None and activity.certain else ""


def _absence(job: Job, process: Process) -> str:
    """The collective that others are in and this rank is not, if they have waited long enough."""
    entered = {
        g.pg_name: g.enqueued
        for g in (process.outside.pulse.groups if process.outside.pulse else ())
    }
    missed = [
        wait
        for group in process.groups.values()
        for wait in job.first_waits_in(group.pg_name, group.members, _WAITS_FROM_S)
        if entered.get(wait.pg_name, 0) < wait.seq
    ]
    if not missed:
        return ""
    wait = min(missed, key=lambda wait: (wait.seq, wait.global_rank))
    other = job.ranks[wait.global_rank]
    return f"is not in {_wait_text(job, other, wait)}"


def _last_collective(process: Process) -> str:
    groups = process.outside.pulse.groups if process.outside.pulse else ()
    last = max(groups, key=lambda group: group.changed_ns, default=None)
    if last is None or last.enqueued < 1:
        return ""
    for operation in reversed(process.outside.operations):
        if (operation.pg_name, operation.seq) == (last.pg_name, last.enqueued):
            return f"after {operation_name(operation.op)} #{last.enqueued}"
    return f"after collective #{last.enqueued}"


def _last_peer_call(process: Process) -> str:
    newest = process.outside.operations[-1] if process.outside.operations else None
    if newest is None or newest.p2p_seq < 0:
        return ""
    return f"after {operation_name(newest.op)} #{newest.p2p_seq}"


def _wait_text(job: Job, process: Process, wait: Wait) -> str:
    rank, pg_name, seq = process.global_rank or 0, wait.pg_name, wait.seq
    called = seq >= 0 and (job.operation(rank, pg_name, seq) or job.recorded(rank, pg_name, seq))
    call = f"{operation_name(called.op)} #{seq}" if called else wait.call
    group = process.groups.get(pg_name)
    named = bool(group and group.pg_desc and group.pg_desc != "undefined")
    title = group.pg_desc if group and named else f"group {pg_name}"
    return f"{call} in {title}"


def _last_status(job: Job, process: Process) -> str:
    """The wait that it was in when it ended, if it was in one."""
    if process.exception is not None:
        return ""
    if wait := _wait(job, process):
        return f"was in {wait[0]}"
    return _absence(job, process).replace("is not in", "was not in")


def _ended_word(job: Job, process: Process) -> tuple[str, str, int | None]:
    seen, error = process.outside.exit, process.exception
    text = exit_text(seen)
    if error is not None:
        return (
            "failed",
            shorten(f"{text}: {error.type_name}: {error.message}", 200),
            process.ended_ns,
        )
    if seen is not None and seen.signal is not None:
        return "killed", text, process.ended_ns
    if ended_by_ray(process, job.ray):
        return "exited", f"{text}, with which Ray ends its workers", process.ended_ns
    if seen is not None and seen.exit_code:
        return "failed", text, process.ended_ns
    return "exited", text, process.ended_ns


def _beat_ns(process: Process) -> int | None:
    return process.outside.pulse.beat_ns if process.outside.pulse else None


def _step_text(step: Step) -> str:
    count = f" {step.done} of {step.total}" if step.total else ""
    label = f" ({step.label})" if step.label else ""
    return f"{step.name}{count}{label}"
