"""Where in its training a rank is: the step, the phase, and whether the step takes unusually long."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.facts.identity_cache import cache_by_identity
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.user_frame import work_frames
from distwatch.diagnosis.facts.weight_sync import weight_sync_in, weight_sync_of
from distwatch.state.events import Frame, TrainingStep
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks

OVERLONG = 10.0
"""So many times its usual length, a step is worth a look before any deadline."""
_LEAST_S = 5.0
_LONGEST_S = 900.0
"""By then a deadline has spoken, or the training is over and the process does other work."""
_UNEVEN_PHASES = ("evaluation", "save")
_PHASES: tuple[tuple[str, str, str], ...] = (
    # Phase, functions, parts of a file's path: the first that any frame fits, from what contains the others.
    ("save", "save_checkpoint _save_checkpoint save_pretrained save_state", "/torch/distributed/checkpoint/"),
    ("evaluation", "evaluate evaluation_loop eval_step validate validation_step run_validation predict test_step", ""),
    ("save", "save", "/torch/serialization.py"),
    ("backward", "backward", "/torch/autograd/__init__.py /torch/autograd/graph.py"),
    ("optimizer", "", "/torch/optim/"),
    ("forward", "forward", "/torch/nn/modules/"),
)  # fmt: skip


class Overlong(msgspec.Struct, frozen=True, kw_only=True):
    """A step that takes many times its usual length."""

    ranks: tuple[int, ...]
    step: int
    lasted_s: float
    usual_s: float

    def __str__(self) -> str:
        who = name_ranks(self.ranks, "has been at", "have been at")
        return (
            f"{who} step {self.step:,} for {seconds(self.lasted_s)}; "
            f"a step usually takes {seconds(self.usual_s)}"
        )


def training_of(process: Process) -> TrainingStep | None:
    """Its step as its pulse last told it; None where it has told none."""
    return process.outside.pulse.training if process.outside.pulse else None


def phase_of(process: Process) -> str:
    """forward, backward, optimizer, evaluation, save or a part of a weight sync, by its stack; '' for none of these."""
    frames = work_frames(process)
    sync = weight_sync_in(frames)
    return f"weight sync, {sync}" if sync else _phase(frames)


def place_in_training(process: Process) -> str:
    """`step 1,204, in backward`; '' where neither the step nor a weight sync is known."""
    at = training_of(process)
    if at is None:
        return phase_of(process) if weight_sync_of(process) else ""
    phase = phase_of(process)
    epoch = f" of epoch {at.epoch:.2f}" if at.epoch is not None else ""
    return f"step {at.step:,}{epoch}{f', in {phase}' if phase else ''}"


def overlong_step(job: Job) -> Overlong | None:
    """The ranks whose step takes OVERLONG times as long as their steps usually do; None: none does.

    Steps with an evaluation or a checkpoint in them are always longer.
    """
    late: dict[int, tuple[TrainingStep, float]] = {}
    for rank, process in job.ranks.items():
        at = training_of(process)
        if at is None or not at.usual_s or process.ended_ns is not None:
            continue
        lasted_s = job.age_s(process, at.began_ns)
        if max(OVERLONG * at.usual_s, _LEAST_S) < lasted_s < _LONGEST_S:
            if phase_of(process) in _UNEVEN_PHASES:
                return None
            late[rank] = (at, lasted_s)
    if not late:
        return None
    at, lasted_s = max(late.values(), key=lambda one: one[1])
    return Overlong(ranks=tuple(late), step=at.step, lasted_s=lasted_s, usual_s=at.usual_s)


@cache_by_identity
def _phase(frames: tuple[Frame, ...]) -> str:
    for phase, functions, parts in _PHASES:
        for frame in frames:
            name = frame.function.rpartition(".")[2]
            if name in functions.split() or any(part in frame.file for part in parts.split()):
                return phase
    return ""
