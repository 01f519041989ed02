"""The processes that a rank has started: dataloader workers and others."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.check import Case
from distwatch.state.model import Process

_ROLES = ("dataloader", "child")
_BY_REQUEST = (2, 15)


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A process that a rank has started."""

    process: Process

    @property
    def lives(self) -> bool:
        return self.process.ended_ns is None

    def __str__(self) -> str:
        kind = "data worker" if self.process.role == "dataloader" else "child process"
        return f"{kind} pid {self.process.pid}"


def children_of(case: Case, parent: Process) -> list[Child]:
    """Those that were seen, oldest first."""
    found = [
        process
        for process in case.state.processes.values()
        if process.ppid == parent.pid and process.host == parent.host and process.role in _ROLES
    ]
    return [Child(process=process) for process in sorted(found, key=lambda p: p.key)]


def died(children: list[Child]) -> list[Child]:
    """Those that ended by a failure or a signal that nobody sends to end a program."""
    return [child for child in children if _failed(child.process)]


def _failed(process: Process) -> bool:
    seen = process.outside.exit
    if process.ended_ns is None or seen is None:
        return False
    if seen.oom_killed or (seen.signal is not None and seen.signal not in _BY_REQUEST):
        return True
    return bool(seen.exit_code)
