"""Calls that torch or a framework rejected: one finding for each kind of fault and each of its messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.failures import Failure
from distwatch.state.finding import Evidence, Finding, Severity
from distwatch.state.rank_sets import name_ranks
from distwatch.visible_text import shorten

_LISTED = 8
_OWN_RANK = re.compile(r"\brank \d+")


class Told(msgspec.Struct, frozen=True):
    """What a finding says about failed calls of one kind."""

    summary: str
    advice: str = ""
    evidence: tuple[Evidence, ...] = ()


Teller = Callable[[Case, list[Failure]], Told]


def words_of(failure: Failure) -> str:
    """The first line of the message, without its type."""
    return shorten((failure.text.partition(": ")[2].strip().splitlines() or [""])[0], 200)


def message_of(failure: Failure) -> Hashable:
    """Equal for one fault of several ranks, whose messages may name their own rank."""
    return _OWN_RANK.sub("rank N", words_of(failure))


class FailedCalls(msgspec.Struct, frozen=True):
    """The failures with some codes. Those of one code and one kind are one finding."""

    tellers: Mapping[str, Teller]
    kind_of: Callable[[Failure], Hashable] = message_of

    def find(self, case: Case) -> Iterable[Finding]:
        by_kind: dict[tuple[str, Hashable], list[Failure]] = {}
        for failure in case.failures:
            if failure.code in self.tellers:
                by_kind.setdefault((failure.code, self.kind_of(failure)), []).append(failure)
        for (code, _), failed in by_kind.items():
            culprits = ranks_of(failed)
            waiting = case.waiting_for(culprits) if culprits else tuple(case.waiting)
            told = self.tellers[code](case, failed)
            yield Finding(
                code=code,
                severity=severity_of(failed, waiting),
                culprit_ranks=culprits,
                waiting_ranks=waiting,
                summary=told.summary,
                advice=told.advice,
                evidence=(*(failure.evidence() for failure in failed[:_LISTED]), *told.evidence),
            )


def severity_of(failed: list[Failure], waiting: tuple[int, ...]) -> Severity:
    """How bad failed calls are: they ended their process, keep others waiting, or were caught."""
    if any(failure.uncaught or failure.process.ended_ns is not None for failure in failed):
        return "crash"
    # In a Ray actor every exception is caught, but the task failed with it.
    if any(failure.process.identity.launcher == "ray" for failure in failed):
        return "crash"
    return "hang" if waiting else "warning"


def ranks_of(failed: Iterable[Failure]) -> tuple[int, ...]:
    """The ranks that failed, where they know their rank."""
    return tuple(sorted({f.global_rank for f in failed if f.global_rank is not None}))


def who_of(failed: list[Failure]) -> str:
    """`ranks 0-3`, or the processes where no rank is known."""
    if ranks := ranks_of(failed):
        return name_ranks(ranks)
    if len(failed) == 1:
        process = failed[0].process
        return f"the process with pid {process.pid} on {process.host}"
    return f"{len(failed)} processes"


def at_site(failure: Failure) -> str:
    """` at train.py:9 in main`; '' where it is not known."""
    return f" at {failure.site}" if failure.site else ""
