"""A state with shorter deadlines: what its verdict would be if no rank had time."""

from __future__ import annotations

import copy

import msgspec

from distwatch.state.model import Process, RunState
from distwatch.state.steps import DEADLINES


def hurried(state: RunState, most_s: float) -> RunState:
    """The same state with no deadline longer than `most_s`. The original does not change."""
    hasty = copy.copy(state)
    hasty.processes = {key: _impatient(process, most_s) for key, process in state.processes.items()}
    return hasty


def _impatient(process: Process, most_s: float) -> Process:
    impatient = copy.copy(process)
    if process.started is not None:
        own = process.started.deadlines
        deadlines = {kind: min(own.get(kind, most_s), most_s) for kind in {*DEADLINES, *own}}
        impatient.started = msgspec.structs.replace(process.started, deadlines=deadlines)
    impatient.steps = {}
    for number, step in process.steps.items():
        hasty = copy.copy(step)
        if hasty.deadline_s is not None:
            hasty.deadline_s = min(hasty.deadline_s, most_s)
        impatient.steps[number] = hasty
    return impatient
