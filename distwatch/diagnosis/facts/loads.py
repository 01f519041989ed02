"""Model loads for every view: phases on a timeline, progress, and which part is slow."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.state.loads import LoadArguments, Outstanding, Placement
from distwatch.state.model import ModelLoad, Process, RunState, Step


class LoadPhase(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of a load; times are seconds since the load began."""

    name: str
    began_s: float
    ended_s: float | None = None
    """None while the phase is under way."""
    error: str | None = None


class LoadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One load of one rank: its progress, or where its model ended up."""

    global_rank: int
    step: int
    call: str
    """`from_pretrained`, `load_checkpoint_and_dispatch`, …"""
    arguments: LoadArguments
    phases: tuple[LoadPhase, ...] = ()
    took_s: float = 0.0
    """Since the load began, or until it ended."""
    still_s: float = 0.0
    """Since it last moved; 0 once it has ended."""
    ended: bool = False
    cut_off: bool = False
    """Whether its process ended before the load did."""
    error: str | None = None
    phase: str = ""
    """The innermost phase under way; '' once it has ended."""
    done: int = 0
    total: int | None = None
    """Files of the phase that counts them: the current or last one, and how many there are."""
    file: str = ""
    after_files: int = 0
    """How many files an earlier phase has read, all that there were; 0 before that."""
    parameters: int = 0
    parameters_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None
    bytes_per_s: float | None = None
    """Over the last seconds; None where no pulse reported it."""
    outstanding: tuple[Outstanding, ...] = ()
    placement: Placement | None = None
    now_ns: int = 0
    """The host's time at which this was true."""

    @property
    def under_way(self) -> bool:
        """Whether it may still move."""
        return not self.ended and not self.cut_off

    @property
    def share(self) -> float | None:
        """The share that is done, by the finest count; None where nothing is counted."""
        counts = (
            (self.parameters, self.parameters_total),
            (self.bytes, self.bytes_total),
            (self.done, self.total),
        )
        known = next(((done, total) for done, total in counts if done and total), None)
        return min(1.0, known[0] / known[1]) if known else None

    def waited_s(self, outstanding: Outstanding) -> float:
        """How long one of its threads has been waiting in that."""
        return max(0.0, (self.now_ns - outstanding.since_ns) / 1e9)

    @property
    def text(self) -> str:
        """`shards 3 of 7 (model-00003-of-00007.safetensors)`, `done`, `failed`."""
        if self.ended:
            return "failed" if self.error else "done"
        count = f" {self.done} of {self.total}" if self.total else ""
        file = f" ({self.file})" if self.file else ""
        return f"{self.phase or 'begins'}{count}{file}"


def loads_of(state: RunState, job: Job | None = None) -> list[LoadStatus]:
    """Every load of every rank, by rank and in the order in which they began."""
    job = job or largest_job(state)
    return [
        load_status(job, rank, process, load)
        for rank, process in sorted(job.ranks.items())
        for load in sorted(process.loads.values(), key=lambda load: load.step)
        if load.step in process.steps
    ]


def load_under_way(job: Job, global_rank: int) -> LoadStatus | None:
    """The load that a rank is in now; the innermost of several."""
    process = job.ranks.get(global_rank)
    if process is None or not process.loads:
        return None
    under_way = [
        load
        for load in process.loads.values()
        if (step := process.steps.get(load.step)) is not None and step.ended_ns is None
    ]
    newest = max(under_way, key=lambda load: load.step, default=None)
    return load_status(job, global_rank, process, newest) if newest else None


def load_status(job: Job, global_rank: int, process: Process, load: ModelLoad) -> LoadStatus:
    """The progress of one load."""
    whole = process.steps[load.step]
    steps = _below(process, load.step)
    under_way = [step for step in steps if step.ended_ns is None]
    inner = under_way[-1] if under_way else None
    counted = next((s for s in reversed(steps) if s.total or s.parameters), None)
    files = inner if whole.ended_ns is None else counted
    told = process.load_progress(load.step) if whole.ended_ns is None else None
    # A frozen process's last pulse describes the time before: since then only the journal counts.
    awake = told if told is not None and not job.was_frozen(process) else None
    moved_ns = max(
        (step.moved_ns for step in (whole, *steps)),
    )
    end_ns = whole.ended_ns if whole.ended_ns is not None else job.now_ns(process)
    return LoadStatus(
        global_rank=global_rank,
        step=load.step,
        call=whole.name,
        arguments=load.arguments,
        phases=tuple(_phase(whole, step) for step in steps if step.parent == load.step),
        took_s=(end_ns - whole.started_ns) / 1e9,
        still_s=job.age_s(process, moved_ns) if whole.ended_ns is None else 0.0,
        ended=whole.ended_ns is not None,
        cut_off=whole.ended_ns is None and process.ended_ns is not None,
        error=whole.error,
        phase=inner.name if inner and whole.ended_ns is None else "",
        done=files.done if files and files.total else 0,
        total=files.total if files else None,
        file=files.label if files else "",
        after_files=_all_read(counted) if counted is not inner else 0,
        parameters=max((one.parameters for one in (counted, told) if one), default=0),
        parameters_total=_first(one.parameters_total for one in (told, counted) if one),
        bytes=told.bytes if told else max(step.bytes for step in (whole, *steps)),
        bytes_total=_first(one.bytes_total for one in (told, counted) if one),
        bytes_per_s=awake.bytes_per_s if awake else None,
        outstanding=awake.outstanding if awake else (),
        placement=load.placement,
        now_ns=job.now_ns(process),
    )


def _all_read(counted: Step | None) -> int:
    """How many files a phase has read that has come to its good end; 0 where it may have left out some."""
    if counted is None or counted.ended_ns is None or counted.error:
        return 0
    # Threads read files in any order: the newest need not be the last one.
    whole = 0 < counted.parameters == counted.parameters_total
    return counted.total or 0 if whole or counted.done >= (counted.total or 1) else 0


def _first(totals: Iterable[int | None]) -> int | None:
    return next((total for total in totals if total), None)


def _below(process: Process, number: int) -> list[Step]:
    """The steps inside that one, in the order in which they began."""
    inside = {number}
    found: list[Step] = []
    for step in sorted(process.steps.values(), key=lambda step: step.step):
        if step.parent in inside and step.step != number:
            inside.add(step.step)
            found.append(step)
    return found


def _phase(whole: Step, step: Step) -> LoadPhase:
    return LoadPhase(
        name=step.name,
        began_s=(step.started_ns - whole.started_ns) / 1e9,
        ended_s=None if step.ended_ns is None else (step.ended_ns - whole.started_ns) / 1e9,
        error=step.error,
    )
