"""Seconds from a cause to its finding, family by family, on real gloo ranks.

The cause is the kill, the exception, or the moment at which the last rank entered the call that
never ends; the finding is the observer's verdict in its journal. Where a deadline must pass, it
is 4 s here. The jobs are those of tests/scenarios.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator

import msgspec

from distwatch.diagnosis.verdict.diagnose import cases_of
from distwatch.diagnosis.verdict.early_warning import early_suspicion
from distwatch.state import events as ev
from distwatch.state.model import RunState
from tests.support.ranks import Job, launch_ranks

LIMIT_S = 45.0
DEADLINE_S = 4.0


class Case(msgspec.Struct, frozen=True):
    """A job, what is done to it, and what has to be found."""

    script: str
    world: int
    arguments: tuple[str, ...]
    code: str
    culprits: frozenset[int]
    waits: bool
    """Whether a deadline has to pass first."""
    act: Callable[[Job], None] | None = None


def send(sign: signal.Signals) -> Callable[[Job], None]:
    """A signal to rank 1, once it stands at its gate and the other waits."""

    def act(job: Job) -> None:
        job.wait_step("gate fate", {1})
        job.wait_step("waiting", {0})
        job.kill(1, sign)

    return act


def blamed(*ranks: int) -> frozenset[int]:
    return frozenset(ranks)


CASES = {
    "killed": Case("ends_early", 2, ("wait",), "process.killed", blamed(1), False, send(signal.SIGKILL)),
    "stopped": Case("ends_early", 2, ("wait",), "process.stopped", blamed(1), False, send(signal.SIGSTOP)),
    "raised": Case("ends_early", 2, ("raise",), "process.exited", blamed(1), False),
    "other operation": Case("different_operations", 2, ("swapped",), "collective.op_mismatch", blamed(0, 1), False),
    "a batch more (DDP)": Case("uneven_batches", 3, (), "collective.count_uneven", blamed(1), False),
    "data worker killed": Case("blocked_rank", 2, ("worker_killed", "1"), "process.worker_died", blamed(1), False),
    "rank missing": Case("elsewhere", 3, ("queue", "0", "async"), "collective.rank_missing", blamed(0), True),
    "data stall": Case("blocked_rank", 2, ("loader", "1"), "process.data_stall", blamed(1), True),
    "lock": Case("blocked_rank", 2, ("lock", "1"), "process.lock_wait", blamed(1), True),
    "livelock": Case("blocked_rank", 2, ("spin", "1"), "process.livelock", blamed(1), True),
    "GIL held": Case("blocked_rank", 2, ("gil", "1"), "process.gil_held", blamed(1), True),
    "recv without send": Case("peers", 2, ("async_recv",), "p2p.unmatched", blamed(0), True),
    "circle of recvs": Case("peers", 3, ("ring_of_recvs",), "p2p.cycle", blamed(0, 1, 2), True),
    "crossed groups": Case("peers", 2, ("crossed_groups",), "collective.cycle", blamed(0, 1), True),
}  # fmt: skip


def measure(case: Case) -> tuple[str, float]:
    """What was found, and seconds from the cause to it."""
    with launch_ranks(case.script, case.world, args=case.arguments) as job:
        acted_ns = 0
        if case.act is not None:
            case.act(job)
            acted_ns = time.monotonic_ns()

        def is_found(state: RunState) -> bool:
            return any(
                f.code == case.code
                and frozenset(f.culprit_ranks) == case.culprits
                and f.role == "root"
                for f in state.recorded_findings
            )

        try:
            state = job.wait_state(is_found, LIMIT_S)
        except AssertionError:
            found = [f"{f.code} {list(f.culprit_ranks)}" for f in job.state().recorded_findings]
            return f"NOT FOUND: {found}", float("nan")
        cause_ns = acted_ns or cause_of(state)
        first = next(
            entry.time_ns
            for entry in state.timeline
            if isinstance(entry.event, ev.FindingsJudged)
            and any(f.code == case.code for f in entry.event.findings)
        )
        return f"{case.code} {sorted(case.culprits)}", (first - cause_ns) / 1e9


def cause_of(state: RunState) -> int:
    """When the first exception was raised, else when the last rank entered its last call."""
    raised = [p.exception_ns for p in state.processes.values() if p.exception_ns]
    if raised:
        return min(raised)
    entered = [
        process.outside.operations[-1].entered_ns
        for process in state.processes.values()
        if process.outside.operations and process.outside.operations[-1].entered_ns
    ]
    return max(entered)


def measure_suspicion() -> float:
    """With the default deadlines: seconds until the TUI would name the missing rank."""
    env = {"DISTWATCH_DEADLINES": "init=120,group=120,load=900,collective=300"}
    with launch_ranks("elsewhere", 2, args=("queue", "1", "all_reduce"), env=env) as job:
        job.wait_step("stalled", {1})
        job.wait_step("waiting", {0})

        def is_suspected(state: RunState) -> bool:
            suspected = early_suspicion(cases_of(state))
            return suspected is not None and suspected.culprit_ranks == (1,)

        state = job.wait_state(is_suspected, LIMIT_S)
        waiting = next(p for p in state.processes.values() if p.global_rank == 0)
        return (time.monotonic_ns() - waiting.outside.operations[-1].entered_ns) / 1e9


def rows(names: list[str], repeats: int) -> Iterator[str]:
    yield "| cause | found | seconds after it | of which deadline |"
    yield "|---|---|---:|---:|"
    for name in names:
        case = CASES[name]
        taken = [measure(case) for _ in range(repeats)]
        found, worst = max(taken, key=lambda one: one[1])
        yield f"| {name} | `{found}` | {worst:.1f} | {f'{DEADLINE_S:g}' if case.waits else '–'} |"
    yield f"| rank missing, default deadlines | suspicion in the TUI | {measure_suspicion():.1f} | – |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("cases", nargs="*", choices=[*CASES, []], help="all by default")
    options.add_argument("--repeats", type=int, default=1)
    arguments = options.parse_args()
    for row in rows(arguments.cases or list(CASES), arguments.repeats):
        print(row, flush=True)


if __name__ == "__main__":
    main()
