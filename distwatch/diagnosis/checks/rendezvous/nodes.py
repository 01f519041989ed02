"""rendezvous.node_missing: torchrun waits for other nodes, and no rank exists yet."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.stack_calls import STILL_S
from distwatch.state.events import RendezvousLooked
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import count_of, seconds
from distwatch.state.steps import INIT


class NodeMissing:
    """A launcher whose rendezvous has fewer nodes than it needs, for longer than an initialization may take."""

    def find(self, case: Case) -> Iterable[Finding]:
        for process in case.state.processes.values():
            looked = process.outside.rendezvous
            if process.ended_ns is not None or looked is None or looked.nodes_joined is None:
                continue
            if looked.nodes_joined >= looked.nodes_needed or _has_ranks(case, process):
                continue
            # Up to the newest look: what nobody has looked at again may have gone on.
            newest_ns = process.outside.stamps["rendezvous"][0]
            waited_s = (newest_ns - looked.waits_since_ns) / 1e9
            # Who attaches to a job that does not know of distwatch knows that it hangs.
            limit_s = INIT.deadline_s
            if looked.limit_s is not None:
                limit_s = looked.limit_s
            elif process.started is not None:
                limit_s = process.started.deadlines.get(INIT.name, limit_s)
            elif process.outside.seen is not None and not process.outside.seen.instrumented:
                limit_s = STILL_S
            if waited_s >= limit_s:
                yield _finding(process, looked, waited_s)


def _has_ranks(case: Case, launcher: Process) -> bool:
    return any(
        other.ppid == launcher.pid and other.host == launcher.host and other.role == "rank"
        for other in case.state.processes.values()
    )


def _finding(process: Process, looked: RendezvousLooked, waited_s: float) -> Finding:
    joined = looked.nodes_joined or 0
    missing = looked.nodes_needed - joined
    come = f": {', '.join(looked.nodes)}" if looked.nodes else ""
    return Finding(
        code="rendezvous.node_missing",
        summary=f"torchrun ({process.address}) waits for {count_of(missing, 'node')} of {looked.nodes_needed}; "
        f"{joined} {'has' if joined == 1 else 'have'} joined at {looked.endpoint}{come}; "
        f"no more for {seconds(waited_s)}",
        evidence=(
            Evidence(
                "store",
                f"the rendezvous ({looked.backend}) at {looked.endpoint}, seen from {looked.host}: "
                f"{joined} of {count_of(looked.nodes_needed, 'node')}{come}",
            ),
        ),
        confidence=0.9,
    )
