"""One process's initializations: the one that it is in, and the state of the newest one."""

from __future__ import annotations

import re

from distwatch.diagnosis.facts.communication import is_init_symptom
from distwatch.state.model import Process, Step

TWICE = re.compile(r"initialize the default process group twice")
_WHOLE = ("init_process_group", "initialize")
_CAUSE_KNOWN = "InitFailed"


def newest_init(process: Process) -> Step | None:
    """The newest initializing call, from the outside: torch's call inside ours does not count."""
    newest: Step | None = None
    for step in process.steps.values():
        if (
            step.name in _WHOLE
            and (newest is None or step.step > newest.step)
            and not _inside(process, step)
        ):
            newest = step
    return newest


def first_init(process: Process) -> Step | None:
    """The oldest initialization that succeeded, as far as it is still remembered."""
    calls = [
        step
        for step in process.steps.values()
        if step.name in _WHOLE
        and not _inside(process, step)
        and step.ended_ns is not None
        and not step.error
    ]
    return min(calls, key=lambda step: step.step, default=None)


def _inside(process: Process, step: Step) -> bool:
    parent = process.steps.get(step.parent) if step.parent is not None else None
    while parent is not None:
        if parent.name in _WHOLE:
            return True
        parent = process.steps.get(parent.parent) if parent.parent is not None else None
    return False


def holds_world(process: Process) -> bool:
    """Whether it holds a default group now. A second call that torch rejected changes nothing."""
    if process.initialized:
        return True
    step = newest_init(process)
    return bool(step and step.error and TWICE.search(step.error))


def number_of(process: Process) -> int:
    """The number of its newest initialization, from 1; 0: none was seen."""
    if process.planned is not None:
        return process.planned.number
    seen = process.confirmed or process.groups or newest_init(process)
    return 1 if seen else 0


def depth(process: Process, step: Step) -> list[Step]:
    """The open steps from `step` inwards."""
    return [inner for inner in process.open_steps() if inner.step >= step.step]


def knows_its_cause(step: Step) -> bool:
    """Whether it ended because a cause was found, and not because its timeout passed."""
    return (step.error or "").startswith(_CAUSE_KNOWN)


def stuck_creation(process: Process) -> Step | None:
    """The group creation that it is in, or that was its last and failed because others were missing."""
    newest: Step | None = None
    for step in process.steps.values():
        if step.name.startswith("new_group") and (newest is None or step.step > newest.step):
            newest = step
    if newest is None or (newest.ended_ns is not None and not is_init_symptom(newest.error or "")):
        return None
    return newest
