"""A process's call of monitored_barrier: gloo gives it no number, so neither a recorder nor a pulse counts it."""

from __future__ import annotations

import re

from distwatch.state.events import Operation
from distwatch.state.model import Process

MONITORED = "monitored_barrier"
_FAILED = re.compile(
    r"(?i)failed to pass monitoredBarrier|reached monitoredBarrier|monitoredBarrier (?:timed out|failed)"
)


def unfinished_barrier(process: Process) -> Operation | None:
    """The monitored barrier that a process is in, or that was its last call and failed."""
    operations = process.outside.operations
    newest = operations[-1] if operations else None
    if newest is None or newest.op != MONITORED:
        return None
    failed = process.exception is not None and _FAILED.search(process.exception.message)
    return newest if not newest.left_ns or failed else None
