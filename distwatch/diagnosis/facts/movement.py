"""What a rank that others wait for still moves: then it is slow, not stuck."""

from __future__ import annotations

from collections.abc import Iterator

from distwatch.diagnosis.facts.activity import LIVELOCK_CPU, Activity, activity_of, spins
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.children import Child, children_of
from distwatch.diagnosis.facts.user_frame import is_of_library, user_frame
from distwatch.state.flow import Flow, Moved
from distwatch.state.model import Process
from distwatch.state.quantities import bytes_text, seconds
from distwatch.state.steps import COLLECTIVE

STILL_S = 5.0
STILL_SHARE = 0.25
"""Of a deadline: work that may take minutes may pause for some of that."""
PLACES, LINES = 5, 10
"""A loop that only waits calls the same few functions, and lines of them, again and again."""
YOUNG_S = 3.0
"""Who waits for one child after the other has none, or one that nobody has watched, in between."""
PATIENCE_S, PATIENCE_DEADLINES = 60.0, 3.0
SYSTEM_SHARE = 0.04
"""Of the CPU: who polls asks the kernel again and again."""
_AWAITS_THREADS = ("queue", "checkpoint")
_AWAITS_CHILDREN = ("child", "queue", "data", "compile")


def movement_of(case: Case, rank: int) -> str:
    """What it has moved lately, in a clause; '' where it moves nothing, has ended, or nobody looked."""
    process = case.job.ranks.get(rank)
    if process is None or process.ended_ns is not None:
        return ""
    if case.job.kernel_state(process) in ("T", "t"):
        return ""
    if case.job.is_frozen(process):  # its stack is old, and the kernel's counts are not
        flow = flow_of(process)
        moved = _bytes(case, process, flow, flow.main, "it") if flow else ""
        return moved or _shutdown(case, process)
    return next(filter(None, _movements(case, process, children_of(case, process))), "")


def compiles(case: Case, rank: int) -> bool:
    """Whether it is in a compiler, by its stack."""
    process = case.job.ranks.get(rank)
    activity = activity_of(case.state, process) if process is not None else None
    return activity is not None and activity.kind == "compile"


def _movements(case: Case, process: Process, children: list[Child]) -> Iterator[str]:
    activity = activity_of(case.state, process)
    awaits = activity.kind if activity is not None else "compute"
    flow = flow_of(process)
    if flow is not None:
        yield _bytes(case, process, flow, flow.main, "it")
        # A logger's thread goes on beside a main thread that hangs.
        if awaits in _AWAITS_THREADS or _joins(activity):
            yield _bytes(case, process, flow, flow.others, "another thread of it")
            yield _work_of_threads(case, process, flow)
    yield _computation(process)
    yield _shutdown(case, process)
    for child in children if awaits in _AWAITS_CHILDREN else ():
        yield from _of_child(case, process, child, flow)
    if awaits == "compile" and (flow := flow_of(process)) is not None:
        yield _cpu(flow, "it")


def _of_child(case: Case, rank: Process, child: Child, parents: Flow | None) -> Iterator[str]:
    if child.process.ended_ns is not None:
        host = case.state.hosts.get(child.process.host)
        age_s = (host.now_ns - child.process.ended_ns) / 1e9 if host else YOUNG_S
        if age_s < YOUNG_S:
            yield f"its {child} ended {seconds(max(0.0, age_s))} ago"
        return
    flow = flow_of(child.process)
    if flow is not None:
        for moved in (flow.main, flow.others):
            # By the deadline of the rank: a child has none.
            yield _bytes(case, rank, flow, moved, f"its {child}")
        yield _cpu(flow, f"its {child}")
    if parents is not None and parents.over_s >= YOUNG_S > (flow.over_s if flow else 0.0):
        yield f"its {child} has just been started"


def flow_of(process: Process) -> Flow | None:
    """What it has moved lately; None where nobody looked."""
    sample = process.outside.sample
    return sample.flow if sample is not None else None


def _joins(activity: Activity | None) -> bool:
    return activity is not None and activity.text == "a thread to end"


def _bytes(case: Case, process: Process, flow: Flow, part: Moved, who: str) -> str:
    still_s = max(STILL_S, STILL_SHARE * case.job.deadline_s(process, COLLECTIVE))
    age_s = case.job.age_s(process, part.at_ns)
    looked_s = case.job.age_s(process, flow.at_ns) if flow.at_ns else 0.0
    # What moved at the latest look moves, also where that look came late.
    if not part.at_ns or age_s - min(looked_s, still_s) > still_s:
        return ""
    moved = [
        f"{verb} {bytes_text(count)}"
        for verb, count in (
            ("written", part.written_bytes),
            ("read", part.read_bytes),
            ("received", part.received_bytes),
        )
        if count
    ]
    if part.touched_bytes and len(moved) < 2:
        moved.append(f"filled {bytes_text(part.touched_bytes)} of memory")
    if not moved:  # that was before the window of the rates
        return f"{who} moved data {seconds(age_s)} ago"
    return f"{who} has {' and '.join(moved)} in the last {seconds(flow.over_s)}"


def _work_of_threads(case: Case, process: Process, flow: Flow) -> str:
    """Threads that a main thread waits for may compute without moving anything: for some time that is work."""
    if flow.over_s <= 0 or flow.others.busy_s < LIVELOCK_CPU * flow.over_s:
        return ""
    stack = process.outside.stack
    since_ns = stack.settled_since_ns if stack else None
    if since_ns is None or case.job.age_s(process, since_ns) > patience_s(case, process):
        return ""
    return f"other threads of it have been busy in the last {seconds(flow.over_s)}"


def patience_s(case: Case, process: Process) -> float:
    """How long it may compute in one place without a sign of progress."""
    return max(PATIENCE_S, PATIENCE_DEADLINES * case.job.deadline_s(process, COLLECTIVE))


def is_busy(flow: Flow) -> bool:
    """Whether a main thread has used the CPU, or waited for it, for much of the last seconds."""
    return flow.over_s > 0 and flow.cpu_s >= LIVELOCK_CPU * flow.over_s


def _computation(process: Process) -> str:
    stack, flow = process.outside.stack, flow_of(process)
    busy_s = spins(process)
    if stack is None or (busy_s is None and (flow is None or not is_busy(flow))):
        return ""
    if stack.settled_places >= PLACES:
        return f"it computes in at least {stack.settled_places} different places"
    asks = flow is not None and flow.system_s > SYSTEM_SHARE * flow.cpu_s
    if asks or stack.settled_lines < LINES:
        return ""
    return f"it computes on at least {stack.settled_lines} different lines below that one"


def _shutdown(case: Case, process: Process) -> str:
    """Python takes its modules down, and libraries their threads, in no function of the person's code."""
    over_ns, flow = process.main_ended_ns or process.ending_ns, flow_of(process)
    if over_ns is None or flow is None or not is_busy(flow):
        return ""
    own = user_frame(process.main_frames)
    looked_since = (process.outside.stack_ns or 0) > over_ns
    if looked_since and own is not None and not is_of_library(own):
        return ""  # an exit handler, which is judged like any other code
    if case.job.age_s(process, over_ns) > patience_s(case, process):
        return ""
    return f"it shuts down, and has been busy for {flow.cpu_s:.1f} s of the last {seconds(flow.over_s)}"


def _cpu(flow: Flow, who: str) -> str:
    if not is_busy(flow):
        return ""
    return f"{who} has been busy for {flow.cpu_s:.1f} s of the last {seconds(flow.over_s)}"
