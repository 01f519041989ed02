"""A run in which nothing happens: all of its ranks beat, and none has waited for as long as anything could be said."""

from __future__ import annotations

from collections.abc import Sequence

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.suspicion import DEADLINE_SHARE, UNLIKE_AFTER_S
from distwatch.diagnosis.facts.training import OVERLONG
from distwatch.diagnosis.facts.unnumbered_calls import has_unrecorded_groups, slept_s
from distwatch.state.finding import Finding
from distwatch.state.model import Process

BEATS_WITHIN_S = 2.5
"""Half of what a rank without a heartbeat is called frozen after."""
RANKS_A_ROUND = 4096
"""How many ranks are asked in one round: a hang stops the first of them as it stops the last."""
LOOKED_AT = 8
"""A thread that waits has made its newest call last; a waiting thread beside others may be missed."""
_MOVING = frozenset(("", "R", "S", "I"))


class CalmRun:
    """A whole run of which a judgement found nothing, with what time alone can change."""

    def __init__(self, case: Case) -> None:
        self._hosts = case.state.hosts
        self._ranks = list(case.job.ranks.values())
        self._may_wait_unseen = has_unrecorded_groups(case.job)
        deadlines = [
            least for p in self._ranks if p.started and (least := min(p.started.deadlines.values(), default=0))
        ]  # fmt: skip
        # A short deadline must not pass unnoticed.
        shortest_s = min(deadlines, default=UNLIKE_AFTER_S)
        self._wait_ns = int(1e9 * min(UNLIKE_AFTER_S, DEADLINE_SHARE * shortest_s / 2))
        self._next = 0

    def goes_on(self) -> bool:
        """Whether that still holds of the next so many ranks, where only pulses and samples have come since."""
        first = self._next
        self._next = first + RANKS_A_ROUND
        if self._next >= len(self._ranks):
            self._next = 0
        return all(map(self._moves, self._ranks[first : first + RANKS_A_ROUND]))

    def _moves(self, process: Process) -> bool:
        outside = process.outside
        pulse, sample, host = outside.pulse, outside.sample, self._hosts.get(process.host)
        if pulse is None or host is None or pulse.loads or not pulse.beat:
            return False
        # How long something had lasted when the pulse was written: it cannot say more.
        beat_ns, wait_ns = pulse.beat_ns, self._wait_ns
        if host.values_ns - beat_ns > BEATS_WITHIN_S * 1e9:
            return False
        if sample is not None and sample.state not in _MOVING:
            return False
        if self._may_wait_unseen and slept_s(process) * 1e9 > wait_ns:
            return False
        for group in pulse.groups:
            if group.in_flight and beat_ns - group.changed_ns > wait_ns:
                return False
        for operation in outside.operations[-LOOKED_AT:]:
            if not operation.left_ns and beat_ns - operation.entered_ns > wait_ns:
                return False
        at = pulse.training
        if at is None or not at.usual_s:
            return True
        return beat_ns - at.began_ns < OVERLONG / 2 * at.usual_s * 1e9


def calm_run(cases: Sequence[Case], findings: Sequence[Finding]) -> CalmRun | None:
    """The run, if it is a whole one in which nothing is found and nothing is under way; else None."""
    if findings or len(cases) != 1:
        return None
    job = cases[0].job
    if job.world is None or len(job.ranks) < job.world:
        return None
    return CalmRun(cases[0]) if all(map(_is_settled, job.ranks.values())) else None


def _is_settled(process: Process) -> bool:
    ends = (
        process.ended_ns,
        process.main_ended_ns,
        process.ending_ns,
        process.exception_ns,
        process.left_ns,
    )
    if not process.known_from_start or any(end is not None for end in ends):
        return False
    return all(step.ended_ns is not None for step in process.steps.values())
