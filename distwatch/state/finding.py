"""A finding: what is wrong, which ranks cause it, how we know, and what to do.

Field names and codes are the public contract of `report.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from distwatch.state.bounds import Finite
from distwatch.state.codes import code_of
from distwatch.state.rank_sets import inflect

Severity = Literal["hang", "crash", "error", "warning", "info"]
"""`error`: a crash predicted before a launch."""
Role = Literal["root", "symptom"]
Source = Literal[
    "journal", "pulse", "stack", "proc", "store", "flight_recorder", "exit", "operations", "plan"
]


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """One observed fact. `global_rank` is None where it is not about a single rank."""

    source: Source
    text: str
    global_rank: int | None = None


class Way(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The way of some ranks, where the ranks of a finding part in the person's code."""

    global_ranks: tuple[int, ...]
    file: str
    line: int
    function: str
    source: str = ""
    """The text of the line."""
    condition: str = ""
    """The text of what leads these ranks there and not the others; '' for the others."""
    condition_line: int = 0
    kind: str = ""
    """What separates the ways: branch, loop, try, except, return, continue, no_sync, …; '' if not known."""
    about: str = ""
    """What that depends on: rank, data, files, time, randomness, exception, environment; '' if not known."""
    lines: tuple[tuple[int, str], ...] = ()
    """Numbered lines of source around the condition and the line."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A diagnosis. `culprit_ranks` never contains a victim."""

    code: str
    severity: Severity = "hang"
    summary: str
    advice: str = ""
    """What to do; by default the advice in the table of codes."""
    role: Role = "root"
    culprit_ranks: tuple[int, ...] = ()
    waiting_ranks: tuple[int, ...] = ()
    pg_name: str | None = None
    pg_desc: str | None = None
    evidence: tuple[Evidence, ...] = ()
    confidence: Finite = 1.0
    """0 to 1: how strong the evidence is. Below 0.5 do not act on this finding alone."""
    why: tuple[Way, ...] = ()
    """Where the ranks part in the person's code, the way under a condition first; empty where that is not known."""

    def __post_init__(self) -> None:
        if not self.advice:
            msgspec.structs.force_setattr(self, "advice", self._usual_advice)

    @property
    def _usual_advice(self) -> str:
        return inflect(code_of(self.code).advice, self.culprit_ranks or (0,))

    @property
    def has_own_advice(self) -> bool:
        """Whether its check knew better advice than the table of codes."""
        return self.advice != self._usual_advice

    @property
    def blocks(self) -> bool:
        """Whether the job cannot continue; the exit code is then 3."""
        return self.severity in ("hang", "crash", "error")

    def with_remark(self, remark: str) -> Finding:
        """The same finding, whose summary ends with a remark; a rank may have raised it from a verdict that did."""
        if f"({remark})" in self.summary:
            return self
        return msgspec.structs.replace(self, summary=f"{self.summary} ({remark})")

    def before_launch(self) -> Finding:
        """The same finding as a prediction: a crash becomes an `error`."""
        return msgspec.structs.replace(self, severity="error") if self.severity == "crash" else self


def blamed_ranks(findings: Iterable[Finding]) -> frozenset[int]:
    """The ranks to mark: those that the roots blame which stop the job; where none does, those of any root."""
    roots = [finding for finding in findings if finding.role == "root"]
    stops = [finding for finding in roots if finding.blocks]
    return frozenset(rank for root in stops or roots for rank in root.culprit_ranks)
