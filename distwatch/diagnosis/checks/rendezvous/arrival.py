"""rendezvous.rank_*: ranks that others wait for in an initialization."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.checks.rendezvous.unplaced import unstarted_ranks
from distwatch.diagnosis.checks.rendezvous.unreachable import unreachable_ranks
from distwatch.diagnosis.facts.absence import (
    Absence,
    absence_of,
    first_to_give_up,
    gave_up,
    since_loss_s,
    since_s,
)
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.claims import surplus
from distwatch.diagnosis.facts.init_waits import (
    endpoints_of,
    evidence_of_store,
    evidence_of_waiting,
    joined_unseen,
    overdue_ranks,
    still_waiting,
    wait_clause,
)
from distwatch.diagnosis.facts.initializations import newest_init, number_of
from distwatch.diagnosis.facts.signals import end_evidence, exit_text, first_line
from distwatch.state.addresses import is_loopback
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.visible_text import shorten

LAUNCHER_GONE_FOR_S = 2.0


class RanksNotArrived:
    """rank_never_started, rank_died, rank_missing: told apart by what was seen of the process."""

    def find(self, case: Case) -> Iterable[Finding]:
        absence = absence_of(case)
        if absence.died:
            yield self._died(case, absence.died)
        overdue = overdue_ranks(case, but_last_s=since_loss_s(case))
        unseen = self._unexplained(case, absence.unseen)
        if unseen and (overdue or _nobody_will_start_them(case)):
            yield self._never_started(case, unseen)
        if absence.elsewhere and overdue:
            yield self._elsewhere(case, absence)
        if absence.late:
            yield self._late(case, absence.late)

    def _unexplained(self, case: Case, unseen: tuple[int, ...]) -> tuple[int, ...]:
        """Unseen ranks, unless their processes came under other names or are on hosts that nobody sees."""
        if len(unseen) <= surplus(case):
            return ()
        known = unstarted_ranks(case)  # Ray says what happened to them
        unseen = tuple(rank for rank in unseen if rank not in known)
        if not _is_local(case) and set(case.waiting) <= unreachable_ranks(case):
            return ()  # ranks that cannot reach the store cannot know who is missing
        return unseen

    def _died(self, case: Case, dead: tuple[int, ...]) -> Finding:
        first = case.job.ranks[dead[0]]
        error = first.exception
        place = case.where(dead[0]) if error else ""
        cause = (
            f"{error.type_name}{' at ' + place if place else ''}: {first_line(error.message)}"
            if error
            else exit_text(first.outside.exit)
        )
        return Finding(
            code="rendezvous.rank_died",
            severity="crash",
            culprit_ranks=dead,
            waiting_ranks=tuple(case.waiting),
            summary=f"{name_ranks(dead)} ended before {agree(dead, 'it', 'they')} reached init_process_group "
            f"({cause}); {still_waiting(case)}",
            evidence=(
                *(e for rank in dead[:8] for e in end_evidence(case.job.ranks[rank], rank)),
                *evidence_of_waiting(case),
                *evidence_of_store(case),
            ),
            confidence=0.95 if error or first.outside.exit else 0.7,
        )

    def _never_started(self, case: Case, never: tuple[int, ...]) -> Finding:
        local = _is_local(case)
        hosts = ", ".join(sorted(case.state.hosts)) or "this host"
        where = endpoints_of(case, case.waiting)
        confidence = 0.95 if local else 0.6
        return Finding(
            code="rendezvous.rank_never_started",
            culprit_ranks=never,
            waiting_ranks=tuple(case.waiting),
            summary=f"{name_ranks(never)} of {case.job.world} never started: no process of "
            f"{agree(never, 'this rank', 'these ranks')} was ever seen on {hosts}; {wait_clause(case)} in "
            f"init_process_group{' at ' + where if where else ''}",
            advice=f"Start the missing {agree(never, 'rank', 'ranks')}, or set WORLD_SIZE to the number of ranks "
            "that you start (torchrun: --nnodes × --nproc-per-node)."
            + ("" if local else " This observer does not see other hosts: look there, too."),
            evidence=(
                Evidence("proc", f"processes seen: {name_ranks(case.job.ranks)} on {hosts}"),
                *evidence_of_waiting(case),
                *evidence_of_store(case),
            ),
            confidence=min(confidence, 0.5) if joined_unseen(case) else confidence,
        )

    def _elsewhere(self, case: Case, absence: Absence) -> Finding:
        ranks = absence.elsewhere
        seen = all(case.job.ranks[rank].instrumented for rank in ranks)
        return Finding(
            code="rendezvous.rank_missing",
            culprit_ranks=ranks,
            waiting_ranks=tuple(case.waiting),
            summary=f"{_whereabouts(case, absence)}; {wait_clause(case)} for {agree(ranks, 'it', 'them')}",
            evidence=(
                *(case.place(rank) for rank in ranks[:8]),
                *(e for rank in ranks[:4] if (e := _evidence_of_giving_up(case, rank))),
                *evidence_of_waiting(case),
                *evidence_of_store(case),
            ),
            confidence=0.9 if seen else 0.6,
        )

    def _late(self, case: Case, late: tuple[int, ...]) -> Finding:
        given_up = tuple(rank for rank, step in case.waiting.items() if step.error)
        process = case.job.ranks[late[0]]
        step, over_ns = newest_init(process), first_to_give_up(case).get(number_of(process))
        begun = case.job.wall_ns(process, step.started_ns) if step else 0
        after = seconds(max(0.0, (begun - (over_ns or begun)) / 1e9))
        return Finding(
            code="rendezvous.rank_missing",
            culprit_ranks=late,
            waiting_ranks=tuple(rank for rank in given_up if rank not in late),
            summary=f"{name_ranks(late)} reached init_process_group {after} after {name_ranks(given_up)} "
            "had given up: late, not stuck",
            advice=f"Find out what delays {agree(late, 'that rank', 'those ranks')} before init_process_group, or "
            "raise the timeout above that delay.",
            evidence=(
                *evidence_of_waiting(case, [*given_up, *late]),
                *(case.place(rank) for rank in late[:8]),
            ),
            confidence=0.9,
        )


def _is_local(case: Case) -> bool:
    """Whether all ranks run on hosts that are seen: a rank that is not seen then does not exist."""
    identity = case.job.ranks[next(iter(case.waiting))].identity
    return identity.single_node or is_loopback(identity.master_addr or "")


def _nobody_will_start_them(case: Case) -> bool:
    """Whether the launcher of a job on this host is gone: only that is certain before the deadline."""
    launchers = [p for p in case.state.processes.values() if p.role == "launcher"]
    gone = {p.pid: p for p in launchers if p.ended_ns is not None}
    parents = {case.job.ranks[rank].ppid for rank in case.waiting}
    if not _is_local(case) or len(gone) < len(launchers) or not parents <= set(gone):
        return False
    ages = [since_s(case, gone[parent]) for parent in parents]
    return min(ages) >= LAUNCHER_GONE_FOR_S


def _whereabouts(case: Case, absence: Absence) -> str:
    ranks = absence.elsewhere
    processes = [case.job.ranks[rank] for rank in ranks]
    place = case.where(ranks[0])
    ended = all(process.ended_ns is not None for process in processes)
    at = f"; rank {ranks[0]} {'was' if ended else 'is'} at {place}" if place else ""
    if any(gave_up(case, rank, case.job.ranks[rank]) for rank in ranks):
        failed = f"the initialization of {name_ranks(ranks)} failed"
        return f"{failed}, and {agree(ranks, 'it', 'they')} continued without it{at}"
    again = " again (the others wait in a later initialization)" if absence.number > 1 else ""
    if ended:
        return (
            f"{name_ranks(ranks)} never called init_process_group{again} before the job ended{at}"
        )
    alive = f"{name_ranks(ranks, 'is', 'are')} alive but {agree(ranks, 'has', 'have')}"
    return f"{alive} not called init_process_group{again}{at}"


def _evidence_of_giving_up(case: Case, rank: int) -> Evidence | None:
    step = newest_init(case.job.ranks[rank])
    if step is None or not step.error:
        return None
    text = f"rank {rank}: {step.name} failed: {shorten(step.error, 200)}"
    return Evidence("journal", text, rank)
