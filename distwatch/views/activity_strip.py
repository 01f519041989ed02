"""What a rank did over time, as a strip: work, collectives, waits, loads, data, saves.

It is drawn from what a rank's state holds: its steps, its last operations, what it waits for now, and
its stack. Where only the number of earlier collectives is known, the strip says that it moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.job import Job
from distwatch.state.events import Operation
from distwatch.state.model import Process
from distwatch.state.statuses import Tone
from distwatch.state.steps import COLLECTIVE, GROUP, INIT, LOAD, kind_of

_BITS = re.compile(r"\d+")
"""The first number in a type's name: `bfloat16`, `float8_e4m3fn`, `int64`."""


class SpanKind(NamedTuple):
    """One kind of stretch. `mark` is its letter in a strip."""

    word: str
    mark: str
    tone: Tone


NOT_OBSERVED = SpanKind("not observed", "·", "unknown")
WORK = SpanKind("own work", "─", "good")
MOVING = SpanKind("work and collectives", "≈", "good")
CALL = SpanKind("collective", "c", "good")
WAIT = SpanKind("waits for ranks", "w", COLLECTIVE.tone)
DATA = SpanKind("data loader", "d", "bad")
SAVE = SpanKind("checkpoint", "s", "busy")
BLOCKED = SpanKind("blocked", "b", "bad")
"""In a lock, a file, the network, a child process, or asleep."""
STOPPED = SpanKind("stopped or frozen", "T", "bad")
ENDED = SpanKind("ended", "x", "over")
_STEPS = {
    INIT.name: SpanKind("initialization", INIT.letter, INIT.tone),
    GROUP.name: SpanKind("group creation", GROUP.letter, GROUP.tone),
    LOAD.name: SpanKind("model load", LOAD.letter, LOAD.tone),
}
KINDS = (
    MOVING, WORK, CALL, WAIT, *_STEPS.values(), DATA, SAVE, BLOCKED, STOPPED, ENDED, NOT_OBSERVED,
)  # fmt: skip
_ACTIVITIES = {
    "data": DATA, "checkpoint": SAVE, "compute": WORK, "compile": WORK, "native": WORK, "load": _STEPS[LOAD.name],
    "collective": WAIT, "store": WAIT, "device": WAIT,
}  # fmt: skip
_HALF = 0.5


class Span(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stretch of one rank's time, in wall-clock nanoseconds."""

    began_ns: int
    ended_ns: int
    kind: SpanKind


class Strip(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's time: a later span covers the earlier ones; `calls` are its collectives."""

    spans: tuple[Span, ...] = ()
    calls: tuple[Span, ...] = ()

    @property
    def began_ns(self) -> int | None:
        return min((span.began_ns for span in self.spans), default=None)


def strip_of(job: Job, global_rank: int) -> Strip:
    """A rank's strip, up to the newest time of its host."""
    process = job.ranks.get(global_rank)
    if process is None:
        return Strip()
    host = job.state.hosts.get(process.host)
    now_ns = host.now_ns if host else process.last_ns
    offset_ns = host.wall_offset_ns if host else 0
    calls, steps = list(_calls(process)), list(_steps(process, now_ns))
    last_ns = max((span.ended_ns for span in [*steps, *calls]), default=0)
    tail = _tail(job, process, global_rank, last_ns, now_ns)
    spans = [*_base(process, now_ns), *steps, *tail]
    return Strip(
        spans=tuple(_shifted(span, offset_ns) for span in spans if span.ended_ns > span.began_ns),
        calls=tuple(_shifted(span, offset_ns) for span in calls),
    )


def _shifted(span: Span, by_ns: int) -> Span:
    return Span(began_ns=span.began_ns + by_ns, ended_ns=span.ended_ns + by_ns, kind=span.kind)


def _base(process: Process, now_ns: int) -> list[Span]:
    """From its start on it works; what lies before the oldest known operation is known by number only."""
    if process.started_ns is None:
        stack = process.outside.stack
        seen_ns = stack.unchanged_since_ns if stack else None
        return [] if seen_ns is None else [Span(began_ns=seen_ns, ended_ns=now_ns, kind=WORK)]
    spans = [Span(began_ns=process.started_ns, ended_ns=now_ns, kind=WORK)]
    oldest = next(iter(process.outside.operations), None)
    if oldest is not None and oldest.number > 1:
        spans.append(Span(began_ns=process.started_ns, ended_ns=oldest.entered_ns, kind=MOVING))
    return spans


def _steps(process: Process, now_ns: int) -> Iterator[Span]:
    for step in sorted(process.steps.values(), key=lambda step: step.started_ns):
        kind = kind_of(step.name)
        if kind is not None and kind.name in _STEPS:
            ended_ns = now_ns if step.ended_ns is None else step.ended_ns
            yield Span(began_ns=step.started_ns, ended_ns=ended_ns, kind=_STEPS[kind.name])


def _calls(process: Process) -> Iterator[Span]:
    """Its completed operations; a call that has not returned is a wait."""
    for operation in process.outside.operations:
        if operation.left_ns:
            yield Span(began_ns=operation.entered_ns, ended_ns=operation.left_ns, kind=CALL)


def _tail(
    job: Job, process: Process, global_rank: int, last_ns: int, now_ns: int
) -> Iterator[Span]:
    """What it has been doing since it last moved, and its end."""
    end_ns = process.ended_ns if process.ended_ns is not None else now_ns
    since = [end_ns - int(wait.waited_s * 1e9) for wait in job.waits_for(global_rank)]
    since += [o.entered_ns for o in process.outside.operations if not o.left_ns]
    if peer := job.peer_waits.get(global_rank):
        since.append(peer.entered_ns)
    if job.kernel_state(process) == "T" or job.is_frozen(process):
        beat_ns = process.outside.pulse.beat_ns if process.outside.pulse else last_ns
        yield Span(began_ns=beat_ns, ended_ns=end_ns, kind=STOPPED)
    elif since:
        yield Span(began_ns=min(since), ended_ns=end_ns, kind=WAIT)
    elif (activity := activity_of(job.state, process)) is not None and not process.open_steps():
        since_ns = max(last_ns, _seen_since_ns(process) or end_ns - 1)
        kind = _ACTIVITIES.get(activity.kind, BLOCKED)
        yield Span(began_ns=since_ns, ended_ns=end_ns, kind=kind)
    if process.ended_ns is not None:
        yield Span(began_ns=process.ended_ns, ended_ns=max(now_ns, end_ns + 1), kind=ENDED)


def _seen_since_ns(process: Process) -> int | None:
    """Since when its stack shows the same call of the user's code."""
    stack = process.outside.stack
    told = (stack.settled_since_ns, stack.unchanged_since_ns) if stack else ()
    return min((since for since in told if since), default=process.outside.stack_ns)


def cells_of(strip: Strip, from_ns: int, to_ns: int, count: int) -> list[SpanKind]:
    """The strip between two times in so many cells, each with the kind that says the most about it."""
    cells = [NOT_OBSERVED] * count
    width_ns = max(1, (to_ns - from_ns) // max(1, count))
    for span in strip.spans:
        # Half a cell is enough to be seen, and what is shorter than that still gets the cell it is in.
        first = (span.began_ns - from_ns + width_ns // 2) // width_ns
        last = (span.ended_ns - from_ns - width_ns // 2) // width_ns
        first, last = (first, last) if first <= last else (last, last)
        for place in range(max(0, first), min(count - 1, last) + 1):
            cells[place] = span.kind
    _draw_calls(cells, strip.calls, from_ns, width_ns)
    return cells


def _draw_calls(cells: list[SpanKind], calls: Sequence[Span], from_ns: int, width_ns: int) -> None:
    """A cell of own work with a collective in it: the collective if it took half of it, else both."""
    inside: dict[int, list[int]] = {}
    for call in calls:
        first, last = (call.began_ns - from_ns) // width_ns, (call.ended_ns - from_ns) // width_ns
        for place in range(max(0, first), min(len(cells) - 1, last) + 1):
            began = max(call.began_ns, from_ns + place * width_ns)
            ended = min(call.ended_ns, from_ns + (place + 1) * width_ns)
            inside.setdefault(place, []).append(ended - began)
    for place, shares in inside.items():
        if cells[place] is WORK:
            cells[place] = CALL if sum(shares) >= _HALF * width_ns else MOVING


def bytes_of(operation: Operation) -> float:
    """The bytes of the tensors that an operation was called with; 0 where it has none or its type is not known."""
    bits = _BITS.search(operation.dtype)
    return max(0, operation.numel) * int(bits[0]) / 8 if bits else 0.0


def rates_of(
    process: Process,
    count: int,
    window_ns: int,
    now_ns: int,
    weigh: Callable[[Operation], float] = lambda _: 1.0,
) -> list[float | None]:
    """Collectives a second in each of `count` equal parts of the newest window; None: not known.

    Only the newest operations are kept, so what lies before them is not known.

    Args:
        weigh: what is counted of each; by default itself.
    """
    operations = process.outside.operations
    oldest = next(iter(operations), None)
    known_ns = oldest.entered_ns if oldest and oldest.number > 1 else process.started_ns
    width_ns = max(1, window_ns // count)
    first_ns = now_ns - width_ns * count
    found: list[float | None] = [
        None if known_ns is None or first_ns + (n + 1) * width_ns < known_ns else 0.0
        for n in range(count)
    ]
    for operation in operations:
        place = (operation.entered_ns - first_ns) // width_ns
        if 0 <= place < count:
            found[place] = (found[place] or 0.0) + weigh(operation) * 1e9 / width_ns
    return found
