"""The parallel states that a run's ranks hold, world by world."""

from __future__ import annotations

from distwatch.diagnosis.facts.worlds import worlds_of
from distwatch.preflight.plan_against_job import JobLayout
from distwatch.state.layouts import layout_of
from distwatch.state.model import RunState


def layouts_of_job(state: RunState) -> list[JobLayout]:
    """One for each framework of each world."""
    found = []
    for world in worlds_of(state):
        for framework in dict.fromkeys(name for process in world for name in process.layouts):
            held = {
                process.global_rank: process.layouts[framework]
                for process in world
                if framework in process.layouts and process.global_rank is not None
            }
            sizes = [process.world_size for process in world if process.world_size]
            size = max(sizes, default=len(held))
            found.append(JobLayout(framework=framework, world=size, layout=layout_of(held)))
    return found
