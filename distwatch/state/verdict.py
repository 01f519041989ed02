"""What an observer answers to a rank that asks why its world does not form."""

from __future__ import annotations

import msgspec

from distwatch.state.finding import Finding


class ReportedStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one expected rank stands. `pid` is None where no process of it was seen."""

    global_rank: int
    word: str = "unobserved"
    doing: str = ""
    where: str = ""
    host: str = ""
    pid: int | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of this moment, the root cause first, and every rank's status."""

    host: str
    findings: tuple[Finding, ...] = ()
    rank_statuses: tuple[ReportedStatus, ...] = ()
