"""The terminal may go away while the viewer runs: then the viewer ends, and blocks or spins nowhere.

Normally SIGHUP ends it. Under `nohup`, in a session of its own, or below a shell that passes no SIGHUP on,
none comes. Textual (8.2) then reads nothing again and again, and waits for ever for a thread to write that an
error has ended.
"""

from __future__ import annotations

import contextlib
import select
import sys
from typing import IO, Any

from textual.drivers.linux_driver import LinuxDriver

_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def terminal_is_gone() -> bool:
    """Whether the terminal of this process has gone away."""
    poll = select.poll()
    try:
        poll.register(sys.__stdin__.fileno() if sys.__stdin__ else -1, 0)
    except ValueError:
        return True  # closed
    return any(events & _GONE for _, events in poll.poll(0))


class TerminalDriver(LinuxDriver):
    """Textual's own, which goes on where nobody sees what it writes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._file: Any = _Whatever(self._file)


class _Whatever:
    """A terminal that takes everything, whether it is still there or not."""

    def __init__(self, terminal: IO[str]) -> None:
        self._terminal = terminal

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._terminal.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._terminal.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)
