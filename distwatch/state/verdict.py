"""An observer's answer to a rank that asks why its world does not form."""

from __future__ import annotations

import msgspec

from distwatch.state.finding import Finding


class ReportedStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One expected rank's status. `pid` is None where no process was seen."""

    global_rank: int
    word: str = "unobserved"
    doing: str = ""
    where: str = ""
    host: str = ""
    pid: int | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The current findings, the root cause first, and every rank's status."""

    host: str
    findings: tuple[Finding, ...] = ()
    rank_statuses: tuple[ReportedStatus, ...] = ()
