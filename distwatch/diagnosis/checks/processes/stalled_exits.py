"""process.exit_stalled: the main thread is over, and something keeps the process alive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distwatch.diagnosis.facts.activity import activity_of, kernel_evidence
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.children import children_of
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.diagnosis.facts.stack_calls import STILL_S, still_s
from distwatch.diagnosis.facts.user_frame import is_of_library, user_frame
from distwatch.state.events import ThreadStack
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.steps import COLLECTIVE

_LISTED = 4


class ExitStalled:
    """A rank whose program has ended for longer than a collective may take, and whose process has not."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            over_ns = process.main_ended_ns or process.ending_ns
            if over_ns is None or process.ended_ns is not None or process.exception is not None:
                continue
            age_s = case.job.age_s(process, over_ns)
            if age_s > _limit_s(case, process) and _nobody_works(case):
                yield self._finding(case, rank, process, age_s)

    def _finding(self, case: Case, rank: int, process: Process, age_s: float) -> Finding:
        waiting = case.waiting_for([rank])
        keepers = list(_keepers(case, process))
        who = keepers[0] if keepers else "what keeps it was not observed"
        launcher = _launcher(case, process)
        waits = f"; its launcher, pid {launcher.pid}, waits for it" if launcher else ""
        return Finding(
            code="process.exit_stalled",
            culprit_ranks=(rank,),
            waiting_ranks=waiting,
            summary=f"rank {rank} has come to the end of its program, and its process has not ended for "
            f"{seconds(age_s)}: {who}{waits}",
            evidence=(
                *(Evidence("stack", keeper, rank) for keeper in keepers[:_LISTED]),
                *kernel_evidence(process, rank),
                case.place(rank),
            ),
            confidence=0.95 if keepers else 0.7,
        )


def _limit_s(case: Case, process: Process) -> float:
    """Whoever attaches to a job knows that it hangs: what its stack shows for long enough counts."""
    return case.job.deadline_s(process, COLLECTIVE) if process.known_from_start else STILL_S * 0.99


def _nobody_works(case: Case) -> bool:
    """Whether no other rank of a job that only stacks tell of still moves: until then nobody needs that exit."""
    ranks = case.job.ranks.values()
    return any(p.known_from_start for p in ranks) or all(
        p.ended_ns is not None or still_s(p) >= STILL_S for p in ranks
    )


def _keepers(case: Case, process: Process) -> Iterator[str]:
    """What keeps the process, in clauses; the most telling first."""
    frames = process.main_frames
    own = user_frame(frames)
    if own is not None and not is_of_library(own):
        place = short_site(own.file, own.line, own.function)
        yield f"its main thread still runs an exit handler, at {place}{_doing(case, process)}"
    named = process.main_ended.threads if process.main_ended else ()
    stack = process.outside.stack
    threads = {thread.name: thread for thread in (stack.threads if stack else ())}
    # From outside it cannot be seen which threads are daemons.
    kind = " is not a daemon and" if process.known_from_start else ""
    for name in named:
        if stack is None or name in threads:
            yield f"its thread {name}{kind} has not ended{_where(threads.get(name))}"
    activity = activity_of(case.state, process)
    if activity is not None and activity.kind in ("child", "queue"):
        for child in children_of(case, process):
            if child.process.ended_ns is None:
                yield f"it waits for its {child}"
    if frames:
        file = frames[-1].file.rpartition("/")[2]
        yield f"its main thread is in {frames[-1].function} of {file}{_doing(case, process)}"


def _doing(case: Case, process: Process) -> str:
    activity = activity_of(case.state, process)
    return f", {activity.doing}" if activity is not None else ""


def _where(thread: ThreadStack | None) -> str:
    frame = user_frame(thread.frames) if thread is not None else None
    return f": it is at {short_site(frame.file, frame.line, frame.function)}" if frame else ""


def _launcher(case: Case, process: Process) -> Process | None:
    return next(
        (
            other
            for other in case.state.processes.values()
            if other.role == "launcher" and other.host == process.host and other.pid == process.ppid
            and other.ended_ns is None
        ),
        None,
    )  # fmt: skip
