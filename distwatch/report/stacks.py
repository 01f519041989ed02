"""`distwatch.stacks/1`: all ranks' stacks as one tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.state.model import Process, RunState
from distwatch.views.stack_tree import StackNode, merge_stacks

SCHEMA = "distwatch.stacks/1"


def stacks_document(
    run_id: str | None,
    stacks: Sequence[StackNode],
    *,
    recorded: Iterable[int],
    unobserved: Mapping[int, str],
    threads: Mapping[str, Sequence[StackNode]] | None = None,
) -> dict[str, Any]:
    """What `distwatch stacks -o json` prints.

    Args:
        recorded: ranks whose stack is the last recorded one, and not of now.
        unobserved: by rank, why no stack is known.
        threads: by thread name, where other threads than the main one are wanted.
    """
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "stacks": msgspec.to_builtins(stacks),
        **({"threads": msgspec.to_builtins(threads)} if threads is not None else {}),
        "recorded_ranks": list(recorded),
        "unobserved": {str(rank): why for rank, why in sorted(unobserved.items())},
    }


def recorded_stacks_document(state: RunState) -> dict[str, Any]:
    """The same of what is recorded: no rank is looked at."""
    job = largest_job(state)
    known = {rank for rank, process in job.ranks.items() if process.main_frames}
    return stacks_document(
        state.run_id,
        merge_stacks(state, job),
        recorded=sorted(known),
        unobserved={rank: none_recorded(p) for rank, p in job.ranks.items() if rank not in known},
    )


def none_recorded(process: Process) -> str:
    """Why no stack of a process is known that cannot be looked at now."""
    where = "has ended" if process.ended_ns is not None else f"is on {process.host}"
    return f"it {where}, and no stack of it was recorded"
