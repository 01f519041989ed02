"""The trail of a rank: the lines of the person's code that lead to where it is, or to a call that it made."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.user_frame import is_library, work_frames
from distwatch.state.events import Frame, Operation
from distwatch.state.model import Process

_TRACED = re.compile(r'^\s*File "([^"]+)", line (\d+), in (\S+)')
_INLINED = frozenset(("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"))
_LONGEST = 64
_CALLED = 6


class Step(msgspec.Struct, frozen=True):
    """One function of the person's code, and the line in it."""

    file: str
    line: int
    function: str

    def is_in(self, other: Step) -> bool:
        """Whether both are in one function."""
        return (self.file, self.function) == (other.file, other.function)


class Trail(msgspec.Struct, frozen=True, kw_only=True):
    """The outermost function first.

    Attributes:
        called: names of what the last line calls, the outermost first: the public call of a framework.
        ended: the rank ended in an orderly way, so it is nowhere any more.
        raised: an exception ended it, at the last line.
    """

    steps: tuple[Step, ...] = ()
    called: tuple[str, ...] = ()
    ended: bool = False
    raised: bool = False

    @property
    def is_known(self) -> bool:
        return bool(self.steps) or self.ended


def trail_now(process: Process) -> Trail:
    """Where a rank is, or where it was when it ended."""
    error = process.exception if process.ended_ns is not None else None
    if error is not None and (traced := _of_traceback(error.traceback)):
        return Trail(steps=traced, raised=True)
    if process.ended_ns is not None and _ended_orderly(process):
        return Trail(ended=True)
    return _of_stack(work_frames(process))


def trail_of_call(process: Process, call: Operation) -> Trail:
    """The lines that led to a call, as the rank noted them when it made it."""
    frames: list[Frame] = []
    number = call.site
    while number and len(frames) < _LONGEST and (site := process.sites.get(number)):
        frames.append(Frame(file=site.file, line=site.line, function=site.function))
        number = process.callers.get(number, 0)
    trail = _of_stack(tuple(reversed(frames)))
    return msgspec.structs.replace(trail, called=(*trail.called, operation_name(call.op)))


def _ended_orderly(process: Process) -> bool:
    seen = process.outside.exit
    return process.ending is not None or (seen is not None and seen.exit_code is not None)


def _of_stack(frames: tuple[Frame, ...]) -> Trail:
    frames = tuple(frame for frame in frames if not frame.native)
    users = [n for n, frame in enumerate(frames) if not is_library(frame.file)]
    if not users:
        return Trail()
    steps = (
        Step(frames[n].file, frames[n].line, frames[n].function.rpartition(".")[2]) for n in users
    )
    inside = frames[users[-1] + 1 :][:_CALLED]
    called = tuple(frame.function.rpartition(".")[2] for frame in inside)
    return Trail(steps=_joined(steps), called=called)


def _of_traceback(lines: Iterable[str]) -> tuple[Step, ...]:
    """The last exception of a chain; a traceback names the outermost line first."""
    steps: list[Step] = []
    for line in (part for text in lines for part in text.splitlines()):
        if line.startswith("Traceback "):
            steps.clear()
        if (traced := _TRACED.match(line)) and not is_library(traced[1]):
            steps.append(Step(traced[1], int(traced[2][:9]), traced[3]))
    return _joined(steps)


def _joined(steps: Iterable[Step]) -> tuple[Step, ...]:
    """A comprehension is part of the function around it, whether this Python gives it a frame or not."""
    joined: list[Step] = []
    for step in steps:
        if step.function in _INLINED and joined and joined[-1].file == step.file:
            joined[-1] = msgspec.structs.replace(joined[-1], line=step.line)
        else:
            joined.append(step)
    return tuple(joined)
