"""Programs at a terminal of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Callable


def in_terminal(
    command: list[str],
    *,
    columns: int = 100,
    until: bytes = b"",
    then: Callable[[int, int], None] = lambda pid, terminal: None,
) -> tuple[int, bytes]:
    """Runs a command there: its exit code, and all that it wrote.

    Args:
        until: once it has written this, `then` is called with its pid and the terminal's descriptor.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"}
    environ = {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while until not in said:
                said += os.read(ours, 65536)
            then(process.pid, ours)
            while chunk := os.read(ours, 65536):
                said += chunk
        except OSError:
            pass  # EIO: the other end is closed
        finally:
            os.close(ours)
            # It may go on without a terminal: this is no test's end but its failure.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
    return process.returncode, said


def interrupt(pid: int, _terminal: int) -> None:
    """Ctrl-C."""
    os.kill(pid, signal.SIGINT)
