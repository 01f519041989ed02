"""Words for how a process ended."""

from __future__ import annotations

from collections.abc import Iterable
from signal import Signals

from distwatch.state.events import ExitSeen
from distwatch.state.finding import Evidence
from distwatch.state.model import Process

REQUESTS = frozenset({2, 15})
"""SIGINT and SIGTERM: a person, a launcher or a scheduler asks a process to end."""
SIGKILL = 9
TEARDOWN = REQUESTS | {SIGKILL}
_LINES = 6


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 42` for one without a name."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_text(seen: ExitSeen | None) -> str:
    """One clause: `exit code 1`, `killed by SIGKILL (signal 9)`, or what was not observed."""
    if seen is None:
        return "still running, as far as was seen"
    if seen.signal is not None:
        return f"killed by {signal_name(seen.signal)} (signal {seen.signal})"
    if seen.exit_code is not None:
        return f"exit code {seen.exit_code}"
    return "ended; its exit status was not observed"


def first_line(message: str, most: int = 160) -> str:
    """The first line of an exception's message, cut."""
    return next(iter(message.strip().splitlines()), "")[:most]


def end_text(process: Process) -> str:
    """`ValueError: bad shape`; else how it exited."""
    error = process.exception
    if error is None:
        return exit_text(process.outside.exit)
    return f"{error.type_name}: {first_line(error.message)}"


def end_evidence(process: Process, rank: int) -> Iterable[Evidence]:
    """How a rank's process ended, and the end of its traceback."""
    seen = process.outside.exit
    how = f" ({seen.how})" if seen and seen.how else ""
    yield Evidence("exit", f"{process.address}: {exit_text(seen)}{how}", rank)
    if process.exception is not None:
        lines = [line for line in process.exception.traceback if line.strip()][-_LINES:]
        yield Evidence("journal", "\n".join(lines) or end_text(process), rank)
