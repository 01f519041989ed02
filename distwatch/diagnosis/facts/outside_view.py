"""A job without distwatch as its ranks would tell it: the plan and the steps that their stacks show."""

from __future__ import annotations

import copy

from distwatch.diagnosis.facts.stack_calls import STILL_S, unchanged_s
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.state import events as ev
from distwatch.state.model import Process, RunState, Step
from distwatch.state.steps import INIT


def with_outside_view(state: RunState) -> RunState:
    """The state in which ranks that initialize have the plan and the step of an agent's; else the same one.

    Checks, the graph and the look at endpoints then need no case for jobs that never heard of distwatch.
    The original does not change.
    """
    seen = {
        key: process
        for key, process in state.processes.items()
        if process.role == "rank" and process.planned is None and is_in_init_by_stack(process)
    }
    if not seen or any(process.instrumented for process in state.processes.values()):
        return state
    told = copy.copy(state)
    told.processes = {
        **state.processes,
        **{key: _initializing(process) for key, process in seen.items()},
    }
    return told


def _initializing(process: Process) -> Process:
    since_ns = (process.outside.stack_ns or 0) - int(unchanged_s(process) * 1e9)
    rank, told = process.identity.global_rank, copy.copy(process)
    told.planned = ev.InitPlanned(
        global_rank=rank,
        world_size=process.identity.world_size,
        endpoint=process.identity.endpoint or "",
        hosts_store=rank == 0 and not process.identity.agent_store,
    )
    told.planned_ns = since_ns
    told.steps = {
        0: Step(
            step=0,
            name=INIT.calls[0],
            parent=None,
            # One look shows where a rank is, and only a second one that it stays there.
            deadline_s=STILL_S * 0.99 if unchanged_s(process) >= STILL_S else None,
            label="by its stack",
            site=None,
            thread="",
            started_ns=since_ns,
            moved_ns=since_ns,
        )
    }
    return told
