"""rendezvous.interface_invalid: a variable names a network interface that the host does not have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distwatch.diagnosis.checks.failed_calls import ranks_of, severity_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.failures import Failure
from distwatch.diagnosis.facts.initializations import holds_world
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_ranks

_LISTED = 8


def names_no_interface(name: str, value: str, interfaces: Sequence[str]) -> bool:
    """Whether a variable's value matches none of a host's interfaces.

    gloo takes a comma list of exact names, and all must exist. NCCL takes prefixes, with `=` for exact
    names and `^` for names to leave out, and one match is enough.
    """
    if name != "NCCL_SOCKET_IFNAME":
        wanted = [part.strip() for part in value.split(",") if part.strip()]
        return any(part not in interfaces for part in wanted)
    excluded = value.startswith("^")
    value = value.removeprefix("^")
    exact = value.startswith("=")
    parts = [part.strip() for part in value.removeprefix("=").split(",") if part.strip()]
    fitting = [
        one
        for one in interfaces
        if any(one == part if exact else one.startswith(part) for part in parts)
    ]
    return len(fitting) == len(interfaces) if excluded else bool(parts) and not fitting


class InterfaceInvalid:
    """From the plan before anything fails, and from gloo's and NCCL's own errors."""

    def find(self, case: Case) -> Iterable[Finding]:
        found: dict[tuple[str, str, str], list[int]] = {}
        for rank, process in case.job.ranks.items():
            for name, value in _invalid(process):
                found.setdefault((name, value, process.host), []).append(rank)
        failed = [f for f in case.failures if f.code == "rendezvous.interface_invalid"]
        for (name, value, _), ranks in sorted(found.items()):
            ours = [failure for failure in failed if failure.global_rank in ranks]
            yield from self._finding(case, ranks, f"{name}={value}", ours)
        told = {rank for ranks in found.values() for rank in ranks}
        if rest := [failure for failure in failed if failure.global_rank not in told]:
            yield from self._finding(case, list(ranks_of(rest)), "", rest)

    def _finding(
        self, case: Case, ranks: list[int], given: str, failed: list[Failure]
    ) -> Iterable[Finding]:
        waiting = tuple(rank for rank in case.waiting if rank not in ranks)
        stuck = any(rank in case.waiting for rank in ranks)
        formed = not failed and all(holds_world(case.job.ranks[rank]) for rank in ranks)
        processes = [case.job.ranks[rank] for rank in ranks if rank in case.job.ranks]
        there = next((p.planned.interfaces for p in processes if p.planned), ())
        who = name_ranks(ranks) if ranks else "a process"
        host = f" on {processes[0].host}" if processes else ""
        listed = f"; it has {', '.join(there)}" if there else ""
        yield Finding(
            code="rendezvous.interface_invalid",
            severity=severity_of(failed, waiting)
            if failed
            else "warning"
            if formed or not stuck
            else "hang",
            culprit_ranks=tuple(ranks),
            waiting_ranks=waiting,
            summary=f"{who}: {given or 'the interface variable'} does not name an interface{host}{listed}",
            advice=f"Set it to an interface of that host{' (' + ', '.join(there) + ')' if there else ''}, or unset it.",
            evidence=(
                *(failure.evidence() for failure in failed[:_LISTED]),
                *(_evidence(process) for process in processes[:_LISTED] if process.planned),
            ),
        )


def _invalid(process: Process) -> Iterable[tuple[str, str]]:
    plan = process.planned
    if plan is None or not plan.interfaces:
        return
    for name in _ruling(plan):
        value = plan.variables.get(name, "")
        if value and names_no_interface(name, value, plan.interfaces):
            yield name, value


def _ruling(plan: InitPlanned) -> Iterable[str]:
    """The variables that the backend reads. The default backend is gloo plus what else is available."""
    backend = plan.backend.lower()
    detail = plan.variables.get("TORCH_DISTRIBUTED_DEBUG", "").upper() == "DETAIL"
    if not backend or "gloo" in backend or detail:
        yield "GLOO_SOCKET_IFNAME"
    if "nccl" in backend:
        yield "NCCL_SOCKET_IFNAME"


def _evidence(process: Process) -> Evidence:
    plan = process.planned
    variables = plan.variables if plan else {}
    given = (
        " ".join(f"{n}={v}" for n, v in variables.items() if n.endswith("_IFNAME")) or "none set"
    )
    there = ", ".join(plan.interfaces if plan else ())
    text = f"rank {process.global_rank} on {process.host}: {given}; interfaces: {there or 'not listed'}"
    return Evidence("journal", text, process.global_rank)
