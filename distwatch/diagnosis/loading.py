"""load.*: a model that stops loading."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.check import Case, name_ranks, seconds
from distwatch.diagnosis.initializations import INIT_STEPS
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process, Step


class LoadStalled:
    """load.stalled: no progress within the deadline, or within the one of those who wait for it."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            steps = process.open_steps()
            load = next((step for step in steps if step.name == "from_pretrained"), None)
            if (
                load is None
                or process.ended_ns is not None
                or case.job.kernel_state(process) == "T"
            ):
                continue
            if steps[-1].name in INIT_STEPS or case.job.waits_for(rank):
                continue  # it waits for peers itself
            still = case.job.age_s(process, max(step.moved_ns for step in steps))
            limit = (
                load.deadline_s
                if load.deadline_s is not None
                else case.job.deadline_s(process, "load")
            )
            needed = any(view.overdue and rank in view.missing for view in case.groups)
            if needed:
                limit = min(limit, case.job.deadline_s(process, "collective"))
            if still > limit:
                yield self._finding(case, rank, process, load, still)

    def _finding(
        self, case: Case, rank: int, process: Process, load: Step, still: float
    ) -> Finding:
        phase = process.open_steps()[-1]
        waiting = case.waiting_for([rank])
        place = case.where(rank)
        model = load.label or "a model"
        return Finding(
            code="load.stalled",
            severity="hang",
            culprit_ranks=(rank,),
            waiting_ranks=waiting,
            summary=f"rank {rank} has made no progress in from_pretrained({model}) for {seconds(still)}: "
            f"{_phase_text(phase)}{_reason(case, process)}"
            + (f"; {name_ranks(waiting)} wait for it" if waiting else ""),
            advice="Look at the file system that holds this file (a stalled mount, a lock, a full cache), "
            "or copy the checkpoint to local disk.",
            evidence=(
                Evidence(
                    source="journal", global_rank=rank, text=_journal_text(case, process, phase)
                ),
                *_kernel_evidence(case, rank, process),
                Evidence(
                    source="stack",
                    global_rank=rank,
                    text=f"at {place}" if place else "where: not observed",
                ),
            ),
            confidence=0.95,
        )


def _phase_text(phase: Step) -> str:
    count = f" {phase.done} of {phase.total}" if phase.total else ""
    label = f" ({phase.label})" if phase.label and phase.name != "from_pretrained" else ""
    return f"phase {phase.name}{count}{label}"


def _reason(case: Case, process: Process) -> str:
    sample = process.outside.sample
    blocked_on = f" on {sample.blocked_on}" if sample and sample.blocked_on else ""
    if case.job.kernel_state(process) == "D":
        return f", blocked in the kernel{blocked_on}"
    if case.job.is_frozen(process):
        return f", with the GIL held{blocked_on}"
    return f", waiting{blocked_on}" if blocked_on else ""


def _journal_text(case: Case, process: Process, phase: Step) -> str:
    ago = seconds(case.job.age_s(process, phase.moved_ns))
    return f"{_phase_text(phase)} last moved {ago} ago"


def _kernel_evidence(case: Case, rank: int, process: Process) -> Iterable[Evidence]:
    sample = process.outside.sample
    if sample is None:
        return
    wchan = f", wchan {sample.wchan}" if sample.wchan else ""
    syscall = f", in {sample.syscall}" if sample.syscall else ""
    blocked_on = f" on {sample.blocked_on}" if sample.blocked_on else ""
    age = case.job.heartbeat_s(process)
    beat = f"; last heartbeat {seconds(age)} ago" if age is not None else ""
    text = f"process state {sample.state}{wchan}{syscall}{blocked_on}{beat}"
    yield Evidence(source="proc", global_rank=rank, text=text)
