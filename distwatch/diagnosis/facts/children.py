"""The processes that a rank started: data workers and others."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.signals import REQUESTS
from distwatch.state.model import Process

_ROLES = ("dataloader", "child", "other")
AT_ONCE_NS = 2_000_000_000
"""Whoever ends a whole job ends the children of a rank within this time of the rank."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A process that a rank started."""

    process: Process

    def outlived(self, parent: Process) -> bool:
        """Whether it is alive, or ended no earlier than its parent."""
        if self.process.ended_ns is None:
            return True
        return parent.ended_ns is not None and (
            self.process.ended_ns > parent.ended_ns - AT_ONCE_NS
        )

    def __str__(self) -> str:
        kind = "data worker" if self.process.role == "dataloader" else "child process"
        return f"{kind} pid {self.process.pid}"


def children_of(case: Case, parent: Process) -> list[Child]:
    """The children that were seen, oldest first."""
    below = case.started_by.get((parent.host, parent.pid), ())
    found = [process for process in below if process.role in _ROLES]
    return [Child(process=process) for process in sorted(found, key=lambda p: p.key)]


def died(parent: Process, children: list[Child]) -> list[Child]:
    """Children that ended before the rank by a failure, or by a signal that nobody sends to end a program."""
    return [child for child in children if _failed(child.process) and not child.outlived(parent)]


def _failed(process: Process) -> bool:
    seen = process.outside.exit
    if process.ended_ns is None or seen is None:
        return False
    if seen.oom_killed or (seen.signal is not None and seen.signal not in REQUESTS):
        return True
    # A program that a rank ran may end with any code, and no rank waits for it any more.
    return bool(seen.exit_code) and process.role == "dataloader"
