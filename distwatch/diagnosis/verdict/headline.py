"""The verdict in one word and one sentence: what every view, report and program shows first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.deadlines import next_deadline
from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.diagnosis.facts.suspicion import suspicion_of
from distwatch.diagnosis.facts.training import overlong_step
from distwatch.diagnosis.verdict.early_warning import early_suspicion
from distwatch.state.codes import code_of
from distwatch.state.finding import Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.state.statuses import IDLE, status_of

_QUIET_S = 5.0
"""A wait this long is mentioned even while nothing is wrong yet."""
_STILL_S = 10.0
"""A stack that has not changed for this long is mentioned where nothing else is seen of a rank."""
_HASTE = 5
"""How many times shorter than the deadline is the one that is suggested to hear earlier."""
_LEAST_SUGGESTED_S = 10.0


Word = Literal[
    "hang", "crash", "error", "warning", "info", "slow", "suspected", "idle", "watching", "starting",
    "healthy", "ended", "unreadable",
]  # fmt: skip


class Headline(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is to be said of a run now.

    Attributes:
        word: the severity of what was found (hang, crash, error, warning, info), or `slow`, `suspected`,
            `idle`, `watching`, `starting`, `healthy`, `ended`.
        summary: one sentence.
        note: what limits it, in a clause; '' where nothing does.
        advice: what to do; '' where nothing needs to be done.
        deadline_in_s: seconds until a suspicion becomes a finding, where that is known.
        suspicion: what will be found if nothing moves.
    """

    word: Word
    summary: str
    note: str = ""
    advice: str = ""
    code: str = ""
    culprit_ranks: tuple[int, ...] = ()
    deadline_in_s: float | None = None
    suspicion: Finding | None = None

    @property
    def sentence(self) -> str:
        """The summary with what limits it."""
        return f"{self.summary} ({self.note})" if self.note else self.summary


def headline_of(
    cases: Sequence[Case], findings: Sequence[Finding], ranks: Sequence[RankStatus]
) -> Headline:
    """The verdict on a run.

    Args:
        cases: its worlds, the largest first.
        findings: what was found in them, in the order of causes.
        ranks: the expected ranks of the largest world.
    """
    first = next(iter(findings), None)
    if first is None or not first.blocks:
        suspected = early_suspicion(cases)
        if suspected is not None:
            return _suspected(cases, suspected)
    if first is not None:
        is_slow = first.severity == "warning" and code_of(first.code).lateness
        return _about(first, "slow" if is_slow else first.severity)
    if idle := [status for status in ranks if status.word == IDLE]:
        return _idle(idle, ranks)
    if overlong := next(filter(None, (overlong_step(case.job) for case in cases)), None):
        return Headline(
            word="suspected",
            summary=str(overlong),
            note="slow or stuck; no deadline has passed yet",
        )
    if reason := next(filter(None, (suspicion_of(case.job, case.groups) for case in cases)), ""):
        return Headline(word="watching", summary=f"no verdict yet: {reason}")
    return _without_findings(ranks)


def _about(finding: Finding, word: Word) -> Headline:
    return Headline(
        word=word,
        summary=finding.summary,
        advice=finding.advice,
        code=finding.code,
        culprit_ranks=finding.culprit_ranks,
    )


def _suspected(cases: Sequence[Case], suspicion: Finding) -> Headline:
    involved = {*suspicion.culprit_ranks, *suspicion.waiting_ranks}
    deadlines = (next_deadline(case, involved) for case in cases)
    due = min(filter(None, deadlines), default=None)
    note = "no deadline has passed yet"
    if due is not None:
        note = f"deadline in {seconds(due.in_s)}"
        if (shorter := due.limit_s / _HASTE) >= _LEAST_SUGGESTED_S:
            note += f"; `--deadlines {due.kind}={shorter:.0f}` to hear earlier"
    return msgspec.structs.replace(
        _about(suspicion, "suspected"),
        note=note,
        deadline_in_s=round(due.in_s, 1) if due is not None else None,
        suspicion=suspicion,
    )


def _idle(idle: Sequence[RankStatus], ranks: Sequence[RankStatus]) -> Headline:
    waiting = [status.global_rank for status in ranks if status.blocked]
    who = name_ranks((status.global_rank for status in idle), "is idle and", "are idle and")
    waits = f"; {name_ranks(waiting, 'waits for it', 'wait for it')}" if waiting else ""
    return Headline(word="idle", summary=f"{who} {idle[0].doing}{waits}")


def _without_findings(ranks: Sequence[RankStatus]) -> Headline:
    seen = [status for status in ranks if status.process is not None]
    if not seen:
        return Headline(word="starting", summary="no ranks seen yet")
    total, words = len(ranks), [status.word for status in ranks]
    if all(status_of(status.word).ended for status in seen):
        count = total - len(seen)
        unseen = f"; {count} {'was' if count == 1 else 'were'} never seen" if count else ""
        summary = f"{len(seen)}/{total} ranks have ended{unseen}; nothing wrong found"
        return Headline(word="ended", summary=summary)
    if any(status_of(word).starts for word in words):
        counts = {word: words.count(word) for word in dict.fromkeys(words)}
        told = ", ".join(f"{number} {word}" for word, number in counts.items())
        return Headline(word="starting", summary=f"{len(seen)}/{total} ranks seen: {told}")
    return _running([s for s in seen if not status_of(s.word).ended], total)


def _running(alive: Sequence[RankStatus], total: int) -> Headline:
    blocked = [s.since_s for s in alive if s.blocked and s.since_s is not None]
    if blocked and max(blocked) >= _QUIET_S:
        waits = f"{len(blocked)}/{total} ranks wait, the longest for {seconds(max(blocked))}"
        return Headline(word="watching", summary=f"no verdict yet: {waits}")
    if not any(s.instrumented for s in alive):
        waiting = sum(s.word == "waiting" for s in alive)
        inside = f"; {waiting} in a collective by their stacks" if waiting else ""
        inside += _still_text(alive)
        seen = f"{len(alive)}/{total} ranks, seen only from outside{inside}"
        return Headline(word="watching", summary=f"no verdict yet: {seen}")
    moved = [s.since_s for s in alive if s.since_s is not None]
    last = f", last progress {seconds(min(moved))} ago" if moved else ""
    gone = f", {total - len(alive)} ended" if len(alive) < total else ""
    return Headline(word="healthy", summary=f"{len(alive)}/{total} ranks{gone}{last}")


def _still_text(alive: Sequence[RankStatus]) -> str:
    """The rank that has stood longest in something of its own, where one has for long."""
    own = [s for s in alive if s.word != "waiting" and (s.since_s or 0) >= _STILL_S]
    longest = max(own, key=lambda s: s.since_s or 0, default=None)
    if longest is None:
        return ""
    place = f", at {longest.where}" if longest.where else ""
    lasted = seconds(longest.since_s or 0)
    return f"; rank {longest.global_rank} has not moved for {lasted}: {longest.doing}{place}"
