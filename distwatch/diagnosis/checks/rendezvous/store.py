"""rendezvous.port_taken, store_lost: something else listens at the endpoint, or nothing any more."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.absence import absence_of, lost_host
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.claims import duplicates
from distwatch.diagnosis.facts.communication import lost_the_store
from distwatch.diagnosis.facts.endpoints import Look, endpoint_of, endpoint_text, looks_at
from distwatch.diagnosis.facts.failures import Failure
from distwatch.diagnosis.facts.init_waits import evidence_of_waiting, wait_clause
from distwatch.diagnosis.facts.signals import end_evidence, end_text, exit_text
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_ranks
from distwatch.visible_text import shorten

SETTLED_S = 2.0
"""A store under load may answer slowly; a port may be free between two listeners."""


class PortTaken:
    """rendezvous.port_taken: a program outside the job listens at the endpoint."""

    def find(self, case: Case) -> Iterable[Finding]:
        failed = [f for f in case.failures if f.code == "rendezvous.port_taken"]
        look = self._foreign(case, failed)
        if not failed and look is None:
            return
        if duplicates(case).get(0) or (failed and _is_held_by_a_rank(case, failed)):
            return  # another process of that rank holds the port
        ranks = {f.global_rank for f in failed if f.global_rank is not None}
        if 0 not in case.job.ranks:
            ranks.add(0)  # it could not listen there, and has ended before anybody looked
        yield self._finding(case, look, failed, tuple(sorted({*case.waiting, *ranks})))

    def _foreign(self, case: Case, failed: list[Failure]) -> Look | None:
        """The look that shows the listener, preferably from the listener's own host."""
        processes = [case.job.ranks[rank] for rank in case.waiting]
        processes += [failure.process for failure in failed]
        places = dict.fromkeys(endpoint_of(process) for process in processes)
        looks = [look for place in places for look in looks_at(case.state, place)]
        found = [look for look in looks if self._is_foreign(case, look, bool(failed))]
        return min(found, key=lambda look: look.probed.owner_pid is None, default=None)

    def _is_foreign(self, case: Case, look: Look, failed: bool) -> bool:
        probed = look.probed
        if probed.owner_pid is not None and _is_ours(case, probed.host, probed.owner_pid):
            return False
        if failed:
            # torch binds every address: another program on one of them is enough to fail.
            return probed.outcome in ("foreign", "silent", "store") or probed.owner_pid is not None
        waited = [case.waiting_s(rank) for rank in case.waiting]
        if probed.outcome == "foreign":
            return bool(waited)
        if probed.outcome == "silent":
            stopped = any(case.job.kernel_state(p) == "T" for p in case.job.ranks.values())
            return not stopped and look.answered_ns is None and max(waited, default=0) >= SETTLED_S
        # A store of another job: rank 0 must be seen, to know that the store is not its own.
        host = case.job.ranks[0] if 0 in case.waiting else None
        hosts = host is not None and host.planned is not None and host.planned.hosts_store
        told = probed.outcome == "store" and probed.owner_pid is not None
        return told and hosts and host is not None and host.host == probed.host

    def _finding(
        self, case: Case, look: Look | None, failed: list[Failure], waiting: tuple[int, ...]
    ) -> Finding:
        probed = look.probed if look else None
        endpoint = probed.endpoint if probed else endpoint_text(failed[0].process)
        owner = _owner_of(look)
        ended = bool(failed) and all(f.uncaught or f.process.ended_ns is not None for f in failed)
        what = "another program listens there" if not owner else f"{owner} listens there"
        return Finding(
            code="rendezvous.port_taken",
            severity="crash" if ended else "hang",
            waiting_ranks=waiting,
            summary=f"the ranks cannot use {endpoint}: {what}"
            + (f"; {wait_clause(case)} in init_process_group" if case.waiting else ""),
            advice=f"Choose another MASTER_PORT, or end that program (kill {probed.owner_pid})."
            if probed and probed.owner_pid
            else "",
            evidence=(
                *(_evidence_of_look(look) if look else ()),
                *(failure.evidence() for failure in failed[:4]),
                *evidence_of_waiting(case),
            ),
            confidence=0.95
            if owner
            else 0.8
            if failed or (probed and probed.outcome == "foreign")
            else 0.6,
        )


def _owner_of(look: Look | None) -> str:
    if look is None or look.probed.owner_pid is None:
        return ""
    command = shorten(" ".join(look.probed.owner_command), 160)
    return f"pid {look.probed.owner_pid} on {look.probed.host}{f' ({command})' if command else ''}"


def _evidence_of_look(look: Look) -> Iterable[Evidence]:
    probed = look.probed
    owner = _owner_of(look) or "who listens there was not observed"
    detail = f": {probed.detail}" if probed.detail else ""
    text = f"{probed.endpoint}, seen from {probed.host}: {probed.outcome}{detail}; {owner}"
    yield Evidence("store", text)


def _is_ours(case: Case, host: str, pid: int) -> bool:
    """Whether a process of that host is of this job: one that was seen, or the parent of a rank."""
    mine = [p for p in case.state.processes.values() if p.host == host]
    ranks = [p for p in case.job.processes if p.host == host]
    launchers = {p.pid for p in mine if p.role == "launcher"}
    return pid in {p.pid for p in ranks} | {p.ppid for p in ranks} | launchers


def _is_held_by_a_rank(case: Case, failed: list[Failure]) -> bool:
    """Whether the port that a rank could not get belongs to another rank of this job."""
    for place in dict.fromkeys(endpoint_of(failure.process) for failure in failed):
        for look in looks_at(case.state, place):
            pid, host = look.probed.owner_pid, look.probed.host
            owners = [p for p in case.job.processes if p.pid == pid and p.host == host]
            if any(owner is not f.process for owner in owners for f in failed):
                return True
    return False


class StoreLost:
    """rendezvous.store_lost: the process that hosted the ranks' store has left."""

    def find(self, case: Case) -> Iterable[Finding]:
        if not case.waiting or case.deaths.stopped_from_outside or duplicates(case):
            return
        if host := lost_host(case):
            yield self._finding(case, host)
            return
        lost = self._lost(case)
        # A rank that hosts the store and gives up takes it along: the cause is then who is missing.
        if lost and (self._by_agent(case) or not absence_of(case).ranks):
            yield self._finding(case, None, lost)

    def _by_agent(self, case: Case) -> bool:
        return any(case.job.ranks[rank].identity.agent_store for rank in case.waiting)

    def _lost(self, case: Case) -> list[int]:
        """Ranks that lost their connection, or wait at an endpoint where a store answered before."""
        return [
            rank
            for rank, step in case.waiting.items()
            if lost_the_store(step.error or "") or (not step.error and self._is_gone(case, rank))
        ]

    def _is_gone(self, case: Case, rank: int) -> bool:
        looks = looks_at(case.state, endpoint_of(case.job.ranks[rank]))
        gone = [look for look in looks if look.probed.outcome == "refused"]
        return case.waiting_s(rank) >= SETTLED_S and any(
            look.answered_ns is not None and look.answered_ns < look.time_ns for look in gone
        )

    def _finding(self, case: Case, host: Process | None, lost: list[int] | None = None) -> Finding:
        waiting = tuple(case.waiting)
        endpoint = endpoint_text(case.job.ranks[waiting[0]])
        if host is not None:
            who = f"rank 0, which hosted it, ended ({end_text(host)})"
            advice = "Fix what ended rank 0; the others only lost its store."
        else:
            who, advice = self._who_without_rank(case)
        return Finding(
            code="rendezvous.store_lost",
            severity="crash",
            culprit_ranks=(0,) if host is not None else (),
            waiting_ranks=waiting,
            summary=f"the store at {endpoint} went away during init_process_group: {who}; "
            f"{name_ranks(waiting)} lost it",
            advice=advice,
            evidence=(
                *(end_evidence(host, 0) if host else ()),
                *evidence_of_waiting(case, lost or waiting),
            ),
            confidence=0.95 if host is not None else 0.8 if self._by_agent(case) else 0.6,
        )

    def _who_without_rank(self, case: Case) -> tuple[str, str]:
        if not self._by_agent(case):
            return (
                "distwatch did not see who hosted it",
                "Look at the host of MASTER_ADDR: the process that listened there has ended.",
            )
        launchers = [p for p in case.state.processes.values() if p.role == "launcher"]
        ended = [p for p in launchers if p.ended_ns is not None]
        if ended:
            told = ", ".join(
                f"pid {p.pid} on {p.host}: {exit_text(p.outside.exit)}" for p in ended[:4]
            )
            return (
                f"torchrun's agent, which hosted it, ended ({told})",
                "Find out what ended torchrun.",
            )
        return (
            "torchrun's agent hosted it, and distwatch did not see it end",
            "Find out what ended or stopped torchrun on the first node.",
        )
