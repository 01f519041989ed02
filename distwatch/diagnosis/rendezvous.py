"""rendezvous.*: ranks that others wait for in init_process_group."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.check import Case, name_ranks, seconds
from distwatch.diagnosis.job import INIT_STEPS
from distwatch.diagnosis.signals import exit_text
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process, Step


class RanksNotArrived:
    """rank_never_started, rank_died, rank_missing: told apart by what was seen of the process."""

    def find(self, case: Case) -> Iterable[Finding]:
        waiting = case.waiting_in_init()
        if not waiting or case.job.world is None:
            return
        absent = [rank for rank in range(case.job.world) if not case.job.has_arrived(rank)]
        dead = [r for r in absent if self._ended(case, r)]
        if dead:
            yield self._died(case, dead, waiting)
        overdue = [rank for rank, step in waiting.items() if _is_overdue(case, rank, step)]
        if not overdue:
            return
        never = [rank for rank in absent if rank not in case.job.ranks]
        if never:
            yield self._never_started(case, never, waiting)
        elsewhere = [rank for rank in absent if rank in case.job.ranks and rank not in dead]
        if elsewhere:
            yield self._elsewhere(case, elsewhere, waiting)

    def _ended(self, case: Case, rank: int) -> bool:
        process = case.job.ranks.get(rank)
        return process is not None and (
            process.ended_ns is not None or process.exception is not None
        )

    def _died(self, case: Case, dead: list[int], waiting: dict[int, Step]) -> Finding:
        first = case.job.ranks[dead[0]]
        error = first.exception
        place = case.where(dead[0]) if error else ""
        cause = (
            f"{error.type_name}{' at ' + place if place else ''}: {error.message.strip()[:160]}"
            if error
            else exit_text(first.outside.exit)
        )
        return Finding(
            code="rendezvous.rank_died",
            severity="crash",
            culprit_ranks=tuple(dead),
            waiting_ranks=tuple(waiting),
            summary=f"{name_ranks(dead)} ended before reaching init_process_group ({cause}); "
            f"{name_ranks(waiting)} {_wait_verb(waiting)} for it in vain",
            advice="Fix what ended that rank; the others only wait for it.",
            evidence=tuple(_evidence_of_death(case, rank) for rank in dead[:8])
            + tuple(_evidence_of_waiting(case, waiting)),
            confidence=0.95 if error or first.outside.exit else 0.7,
        )

    def _never_started(self, case: Case, never: list[int], waiting: dict[int, Step]) -> Finding:
        sample = case.job.ranks[next(iter(waiting))]
        identity = sample.identity
        local = identity.single_node or identity.master_addr in ("localhost", "127.0.0.1", "::1")
        hosts = ", ".join(sorted(case.state.hosts)) or "this host"
        scope = (
            "no process of it was ever seen"
            if len(never) == 1
            else "no process of them was ever seen"
        )
        return Finding(
            code="rendezvous.rank_never_started",
            severity="hang",
            culprit_ranks=tuple(never),
            waiting_ranks=tuple(waiting),
            summary=f"{name_ranks(never)} of {case.job.world} never started: {scope} on {hosts}; "
            f"{name_ranks(waiting)} {_wait_verb(waiting)} in init_process_group"
            f"{' at ' + identity.endpoint if identity.endpoint else ''}",
            advice=f"Start the missing rank{'s' if len(never) > 1 else ''}, or set WORLD_SIZE to the number "
            "that is started (torchrun: --nnodes × --nproc-per-node)."
            + ("" if local else " Other hosts are not observed from here: look there, too."),
            evidence=(
                Evidence(
                    source="proc", text=f"processes seen: {name_ranks(case.job.ranks)} on {hosts}"
                ),
                *_evidence_of_waiting(case, waiting),
            ),
            confidence=0.95 if local else 0.6,
        )

    def _elsewhere(self, case: Case, elsewhere: list[int], waiting: dict[int, Step]) -> Finding:
        place = case.where(elsewhere[0])
        return Finding(
            code="rendezvous.rank_missing",
            severity="hang",
            culprit_ranks=tuple(elsewhere),
            waiting_ranks=tuple(waiting),
            summary=f"{name_ranks(elsewhere)} {'is' if len(elsewhere) == 1 else 'are'} alive but has not called "
            f"init_process_group{': it is at ' + place if place else ''}; "
            f"{name_ranks(waiting)} {_wait_verb(waiting)} for it",
            advice="Look at what that rank does before init_process_group (its stack is below).",
            evidence=(
                *(case.place(rank) for rank in elsewhere[:8]),
                *_evidence_of_waiting(case, waiting),
            ),
            confidence=0.9 if all(case.job.ranks[r].instrumented for r in elsewhere) else 0.6,
        )


def _is_overdue(case: Case, rank: int, step: Step) -> bool:
    if step.error:
        return True
    process = case.job.ranks[rank]
    limit = step.deadline_s if step.deadline_s is not None else case.job.deadline_s(process, "init")
    return case.job.age_s(process, step.started_ns) > limit


def _wait_verb(waiting: dict[int, Step]) -> str:
    if all(step.error for step in waiting.values()):
        return "waited"
    return "waits" if len(waiting) == 1 else "wait"


def _evidence_of_waiting(case: Case, waiting: dict[int, Step]) -> Iterable[Evidence]:
    for rank, step in list(waiting.items())[:4]:
        process = case.job.ranks[rank]
        if step.error:
            text = f"rank {rank}: {step.name} failed: {step.error[:160]}"
        else:
            waited = seconds(case.job.age_s(process, step.started_ns))
            text = f"rank {rank} has been in {_deepest(process, step)} for {waited}"
        site = f" (called at {step.site})" if step.site else ""
        yield Evidence(source="journal", global_rank=rank, text=text + site)


def _deepest(process: Process, step: Step) -> str:
    names = [s.name for s in process.open_steps() if s.step >= step.step and s.name in INIT_STEPS]
    return " → ".join(names) or step.name


def _evidence_of_death(case: Case, rank: int) -> Evidence:
    process = case.job.ranks[rank]
    if process.exception is not None:
        lines = [line for line in process.exception.traceback if line.strip()][-4:]
        text = "\n".join(lines) or f"{process.exception.type_name}: {process.exception.message}"
        return Evidence(source="journal", global_rank=rank, text=text)
    text = f"pid {process.pid} on {process.host}: {exit_text(process.outside.exit)}"
    return Evidence(source="exit", global_rank=rank, text=text)
