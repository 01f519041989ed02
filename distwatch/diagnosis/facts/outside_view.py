"""A job without distwatch as its ranks would tell it: the plan and the steps that their stacks show."""

from __future__ import annotations

import copy

from distwatch.diagnosis.facts.initializations import stuck_creation
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.stack_calls import (
    CREATIONS,
    STILL_S,
    unchanged_s,
    waited_s,
)
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack, torch_frame
from distwatch.diagnosis.facts.worlds import ranks_of, worlds_of
from distwatch.state import events as ev
from distwatch.state.loads import LoadArguments
from distwatch.state.model import ModelLoad, Process, RunState, Step
from distwatch.state.steps import GROUP, INIT, LOAD, StepKind

_LOADERS = ("/transformers/", "/accelerate/")
_PHASES = (*_LOADERS, "/safetensors/", "/torch/serialization.py")
_AT_EXIT = (
    # What Python calls once the program has run to its end: then this is the outermost frame.
    ("/threading.py", "_shutdown"),
    ("/multiprocessing/util.py", "_exit_function"),
    ("/concurrent/futures/thread.py", "_python_exit"),
    ("/concurrent/futures/process.py", "_python_exit"),
    ("/logging/__init__.py", "shutdown"),
    ("/weakref.py", "_exitfunc"),
)


def with_outside_view(state: RunState) -> RunState:
    """The state in which ranks that initialize, create a group, load or exit tell what an agent would.

    An agent that was brought in later does not know what was under way by then: its rank's stack does.
    Checks, the graph and the look at endpoints then need no case for jobs that never heard of distwatch.
    The original does not change; it is returned where there is nothing to tell.
    """
    if any(process.known_from_start for process in state.processes.values()):
        return state
    seen = {
        key: told
        for key, process in state.processes.items()
        if process.role == "rank" and (told := _told(process)) is not None
    }
    if not seen:
        return state
    view = copy.copy(state)
    view.processes = {**state.processes, **seen}
    return view


def largest_job(state: RunState) -> Job:
    """The job of the run's largest world, as the verdict sees it."""
    state = with_outside_view(state)
    return Job(state, next(iter(worlds_of(state)), ()))


def largest_ranks(state: RunState) -> dict[int, Process]:
    """The processes of the run's largest world by global rank, where nothing else of its job is asked for."""
    return ranks_of(next(iter(worlds_of(with_outside_view(state))), ()))


def _told(process: Process) -> Process | None:
    if process.planned is None and is_in_init_by_stack(process):
        return _initializing(process)
    if _is_at_exit(process):
        return _exiting(process)
    if process.instrumented and torch_frame(process.main_frames, CREATIONS):
        return _creating(process) if stuck_creation(process) is None else None
    load = _load_frame(process) if not process.loads else None
    return _loading(process, load) if load is not None else None


def _initializing(process: Process) -> Process:
    rank, told = process.identity.global_rank, copy.copy(process)
    # Rank 0 polls its own store: that its thread runs says nothing.
    step = _step(process, INIT, INIT.calls[0], unchanged_s(process))
    told.steps = {0: step}
    told.planned = ev.InitPlanned(
        global_rank=rank,
        world_size=process.identity.world_size,
        endpoint=process.identity.endpoint or "",
        hosts_store=rank == 0 and not process.identity.agent_store,
    )
    told.planned_ns = step.started_ns
    return told


def _creating(process: Process) -> Process:
    """Its agent came when it was in that call already: it waits there, whatever collective others miss it in."""
    told = copy.copy(process)
    step = _step(process, GROUP, GROUP.calls[0], waited_s(process))
    step.step = max(process.steps, default=-1) + 1
    told.steps = {**process.steps, step.step: step}
    return told


def _is_at_exit(process: Process) -> bool:
    if not process.main_frames or process.main_ended_ns is not None:
        return False
    first = process.main_frames[0]
    return (
        any(first.file.endswith(file) and first.function == name for file, name in _AT_EXIT)
        and unchanged_s(process) >= STILL_S
    )  # one look does not show that it stays there


def _exiting(process: Process) -> Process:
    stack = process.outside.stack
    others = stack.main_first(process.pid)[1:] if stack is not None else ()
    told = copy.copy(process)
    told.main_ended = ev.MainEnded(
        threads=tuple(
            thread.name
            for thread in others
            if thread.frames and thread.name not in ("", "distwatch")
        )
    )
    told.main_ended_ns = (process.outside.stack_ns or 0) - int(unchanged_s(process) * 1e9)
    return told


def _loading(process: Process, load: ev.Frame) -> Process:
    lasted_s = waited_s(process) if process.ended_ns is None else unchanged_s(process)
    whole = _step(process, LOAD, load.function.rpartition(".")[2], lasted_s)
    frames = [f for f in process.main_frames if any(part in f.file for part in _PHASES)]
    phase = _step(process, LOAD, frames[-1].function.rpartition(".")[2], lasted_s)
    phase.step, phase.parent, phase.deadline_s, phase.label = 1, 0, None, ""
    told = copy.copy(process)
    told.steps = {0: whole, 1: phase}
    arguments = LoadArguments(checkpoint="")
    told.loads = {0: ModelLoad(step=0, arguments=arguments, began_ns=whole.started_ns)}
    return told


def _load_frame(process: Process) -> ev.Frame | None:
    """The outermost call of a loading library in its stack."""
    return next(
        (
            frame
            for frame in process.main_frames
            if frame.function.rpartition(".")[2] in LOAD.calls
            and any(part in frame.file for part in _LOADERS)
        ),
        None,
    )


def _step(process: Process, kind: StepKind, name: str, lasted_s: float) -> Step:
    since_ns = (process.outside.stack_ns or 0) - int(lasted_s * 1e9)
    return Step(
        step=0,
        name=name,
        parent=None,
        # One look shows where a rank is, and only a second one that it stays there.
        deadline_s=STILL_S * 0.99 if lasted_s >= STILL_S else kind.deadline_s,
        label="by its stack",
        site=None,
        thread="",
        started_ns=since_ns,
        moved_ns=since_ns,
    )
