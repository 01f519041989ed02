"""What the verdict will be if nothing moves: said before any deadline has passed."""

from __future__ import annotations

import copy

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.suspicion import SUSPICIOUS_AFTER_S, suspicion_of
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.finding import Finding
from distwatch.state.model import Process, RunState


def early_suspicion(state: RunState, case: Case | None = None) -> Finding | None:
    """The first root that the checks would find if every deadline were SUSPICIOUS_AFTER_S.

    None where everything moves, or where what does not move does not say why. It is no finding
    of the run: a slow load or a long compilation looks the same for as long as it takes.

    Args:
        case: the run's largest world, where it is at hand.
    """
    case = case or Case(state)
    if not suspicion_of(case.job, case.groups):
        return None
    findings = diagnose(_hurried(state))
    return next((f for f in findings if f.role == "root" and f.severity == "hang"), None)


def _hurried(state: RunState) -> RunState:
    hurried = copy.copy(state)
    hurried.processes = {key: _impatient(process) for key, process in state.processes.items()}
    return hurried


def _impatient(process: Process) -> Process:
    impatient = copy.copy(process)
    if process.started is not None:
        kinds = {"init", "group", "load", "collective", *process.started.deadlines}
        deadlines = dict.fromkeys(kinds, SUSPICIOUS_AFTER_S)
        impatient.started = msgspec.structs.replace(process.started, deadlines=deadlines)
    impatient.steps = {}
    for number, step in process.steps.items():
        hurried = copy.copy(step)
        if hurried.deadline_s is not None:
            hurried.deadline_s = min(hurried.deadline_s, SUSPICIOUS_AFTER_S)
        impatient.steps[number] = hurried
    return impatient
