"""What a check is, and the case that it looks at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from distwatch.diagnosis.group_views import GroupView, groups_of
from distwatch.diagnosis.job import Job, main_frames
from distwatch.diagnosis.standing import standing_of
from distwatch.diagnosis.victims import Deaths, deaths_of
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import RunState, Step
from distwatch.state.rank_sets import format_ranks


class Check(Protocol):
    """One mechanism. It may look at everything and change nothing."""

    def find(self, case: Case) -> Iterable[Finding]:
        """The findings of this mechanism, in any order."""
        ...


class Case:
    """One state under diagnosis, with what several checks ask of it."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.job = Job(state)
        self.groups: list[GroupView] = groups_of(self.job)
        self.deaths: Deaths = deaths_of(self.job)

    def waiting_for(self, culprits: Iterable[int]) -> tuple[int, ...]:
        """Ranks in a collective that one of the culprits has not entered, or in an init with them."""
        blamed = set(culprits)
        waiting: set[int] = set()
        for view in self.groups:
            if view.in_flight and blamed & set(view.missing):
                waiting |= set(view.entered)
        return tuple(sorted(waiting - blamed))

    def waiting_in_init(self) -> dict[int, Step]:
        """Ranks whose init has begun and has not come to a good end, with that step."""
        waiting: dict[int, Step] = {}
        for rank, process in self.job.ranks.items():
            steps = [s for s in process.steps.values() if s.name == "init_process_group"]
            last = max(steps, key=lambda step: step.step, default=None)
            if last is not None and not process.confirmed and (last.ended_ns is None or last.error):
                waiting[rank] = last
        return waiting

    def place(self, global_rank: int) -> Evidence:
        """Where a rank is now, from its stack, its journal or the process table."""
        standing = standing_of(self.job, global_rank)
        process = self.job.ranks.get(global_rank)
        if process is None:
            return Evidence(source="proc", global_rank=global_rank, text="no process was ever seen")
        if standing.where and main_frames(process):
            doing = f" ({standing.doing})" if standing.doing else ""
            tense = "is" if process.ended_ns is None else "was"
            text = f"rank {global_rank} {tense} at {standing.where}{doing}; pid {process.pid} on {process.host}"
            return Evidence(source="stack", global_rank=global_rank, text=text)
        why = process.outside.not_observed.get("stack", "no stack was taken")
        text = f"rank {global_rank}: {standing.word}, {standing.doing or 'nothing else known'}"
        return Evidence(
            source="journal",
            global_rank=global_rank,
            text=f"{text}; where it is: not observed ({why})",
        )

    def where(self, global_rank: int) -> str:
        """`train.py:42 in step`, or '' where it was not observed."""
        return standing_of(self.job, global_rank).where


def name_ranks(ranks: Iterable[int]) -> str:
    """`rank 2`, `ranks 0-1,3`."""
    members = sorted(set(ranks))
    return f"rank{'s' if len(members) != 1 else ''} {format_ranks(members)}"


def seconds(value: float) -> str:
    """`4.2 s`, `73 s`, `12 min`."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 180 else f"{value / 60:.0f} min"
