"""What a rank that others wait for still moves: then it is slow, not stuck."""

from __future__ import annotations

from collections.abc import Iterator

from distwatch.diagnosis.facts.activity import LIVELOCK_CPU, Activity, activity_of, spins
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.children import Child, children_of
from distwatch.state.flow import Flow, Moved
from distwatch.state.model import Process
from distwatch.state.quantities import bytes_text, seconds
from distwatch.state.steps import COLLECTIVE

STILL_S = 5.0
STILL_SHARE = 0.25
"""Of a deadline: work that may take minutes may pause for some of that."""
PLACES = 5
"""A loop that only waits calls the same few functions again and again."""
_AWAITS_THREADS = ("queue", "checkpoint")
_AWAITS_CHILDREN = ("child", "queue", "data", "compile")


def movement_of(case: Case, rank: int) -> str:
    """What it has moved lately, in a clause; '' where it moves nothing, has ended, or nobody looked."""
    process = case.job.ranks.get(rank)
    if process is None or process.ended_ns is not None or case.job.is_frozen(process):
        return ""
    if case.job.kernel_state(process) in ("T", "t"):
        return ""
    children = [child for child in children_of(case, process) if child.process.ended_ns is None]
    return next(filter(None, _movements(case, process, children)), "")


def compiles(case: Case, rank: int) -> bool:
    """Whether it is in a compiler, by its stack."""
    process = case.job.ranks.get(rank)
    activity = activity_of(case.state, process) if process is not None else None
    return activity is not None and activity.kind == "compile"


def _movements(case: Case, process: Process, children: list[Child]) -> Iterator[str]:
    activity = activity_of(case.state, process)
    awaits = activity.kind if activity is not None else "compute"
    flow = _flow(process)
    if flow is not None:
        yield _bytes(case, process, flow.main, flow.over_s, "it")
        # A logger's thread goes on beside a main thread that hangs.
        if awaits in _AWAITS_THREADS or _joins(activity):
            yield _bytes(case, process, flow.others, flow.over_s, "another thread of it")
    yield _computation(process)
    for child in children if awaits in _AWAITS_CHILDREN else ():
        if (flow := _flow(child.process)) is not None:
            for moved in (flow.main, flow.others):
                yield _bytes(case, process, moved, flow.over_s, f"its {child}")
            yield _cpu(flow, f"its {child}")
    if awaits == "compile" and (flow := _flow(process)) is not None:
        yield _cpu(flow, "it")


def _flow(process: Process) -> Flow | None:
    sample = process.outside.sample
    return sample.flow if sample is not None else None


def _joins(activity: Activity | None) -> bool:
    return activity is not None and activity.text == "a thread to end"


def _bytes(case: Case, process: Process, flow: Moved, over_s: float, who: str) -> str:
    still_s = max(STILL_S, STILL_SHARE * case.job.deadline_s(process, COLLECTIVE))
    age_s = case.job.age_s(process, flow.at_ns)
    if not flow.at_ns or age_s > still_s:
        return ""
    moved = [
        f"{verb} {bytes_text(count)}"
        for verb, count in (("written", flow.written_bytes), ("read", flow.read_bytes))
        if count
    ]
    if not moved:  # that was before the window of the rates
        return f"{who} moved data {seconds(age_s)} ago"
    return f"{who} has {' and '.join(moved)} in the last {seconds(over_s)}"


def _computation(process: Process) -> str:
    stack = process.outside.stack
    busy_s = spins(process)
    if stack is None or busy_s is None or stack.settled_places < PLACES:
        return ""
    return (
        f"it has computed for {seconds(busy_s)}, in at least {stack.settled_places} different "
        "places below that line"
    )


def _cpu(flow: Flow, who: str) -> str:
    if flow.over_s <= 0 or flow.cpu_s < LIVELOCK_CPU * flow.over_s:
        return ""
    return f"{who} has been busy for {flow.cpu_s:.1f} s of the last {seconds(flow.over_s)}"
