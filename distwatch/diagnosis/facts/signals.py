"""Words for how a process ended."""

from __future__ import annotations

from distwatch.state.events import ExitSeen

_NAMES = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
    24: "SIGXCPU",
    31: "SIGSYS",
}


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 42` for one without a common name."""
    return _NAMES.get(number, f"signal {number}")


def exit_text(seen: ExitSeen | None) -> str:
    """One clause: `exit code 1`, `killed by SIGKILL (signal 9)`, or what was not observed."""
    if seen is None:
        return "still running, as far as was seen"
    if seen.signal is not None:
        return f"killed by {signal_name(seen.signal)} (signal {seen.signal})"
    if seen.exit_code is not None:
        return f"exit code {seen.exit_code}"
    return "ended; its exit status was not observed"
