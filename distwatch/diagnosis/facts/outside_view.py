"""A job without distwatch as its ranks would tell it: the plan and the steps that their stacks show."""

from __future__ import annotations

import copy

from distwatch.diagnosis.facts.stack_calls import STILL_S, unchanged_s, waited_s
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.state import events as ev
from distwatch.state.loads import LoadArguments
from distwatch.state.model import ModelLoad, Process, RunState, Step
from distwatch.state.steps import INIT, LOAD

_LOADERS = ("/transformers/", "/accelerate/")
_PHASES = (*_LOADERS, "/safetensors/", "/torch/serialization.py")


def with_outside_view(state: RunState) -> RunState:
    """The state in which ranks that initialize or load have the plan and the steps of an agent's.

    Checks, the graph and the look at endpoints then need no case for jobs that never heard of distwatch.
    The original does not change; it is returned where there is nothing to tell.
    """
    if any(process.instrumented for process in state.processes.values()):
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


def _told(process: Process) -> Process | None:
    if process.planned is None and is_in_init_by_stack(process):
        return _initializing(process)
    load = _load_frame(process) if not process.loads else None
    return _loading(process, load) if load is not None else None


def _initializing(process: Process) -> Process:
    rank, told = process.identity.global_rank, copy.copy(process)
    # Rank 0 polls its own store: that its thread runs says nothing.
    step = _step(process, INIT.calls[0], unchanged_s(process))
    told.steps = {0: step}
    told.planned = ev.InitPlanned(
        global_rank=rank,
        world_size=process.identity.world_size,
        endpoint=process.identity.endpoint or "",
        hosts_store=rank == 0 and not process.identity.agent_store,
    )
    told.planned_ns = step.started_ns
    return told


def _loading(process: Process, load: ev.Frame) -> Process:
    lasted_s = waited_s(process) if process.ended_ns is None else unchanged_s(process)
    whole = _step(process, load.function.rpartition(".")[2], lasted_s)
    frames = [f for f in process.main_frames if any(part in f.file for part in _PHASES)]
    phase = _step(process, frames[-1].function.rpartition(".")[2], lasted_s)
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


def _step(process: Process, name: str, lasted_s: float) -> Step:
    since_ns = (process.outside.stack_ns or 0) - int(lasted_s * 1e9)
    return Step(
        step=0,
        name=name,
        parent=None,
        # One look shows where a rank is, and only a second one that it stays there.
        deadline_s=STILL_S * 0.99 if lasted_s >= STILL_S else None,
        label="by its stack",
        site=None,
        thread="",
        started_ns=since_ns,
        moved_ns=since_ns,
    )
