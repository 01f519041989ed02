"""Finds and ends the processes of one test job, by what only they carry in their environment."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time


def processes_of(root: str) -> list[int]:
    """Pids of all processes started with DISTWATCH_DIR=`root`: ranks, launcher, children, observer.

    Those of a node whose folder lies below it, too.
    """
    mark = b"DISTWATCH_DIR=" + os.fsencode(root)
    below = mark + b"/"
    return [
        pid
        for pid in _pids()
        if any(said == mark or said.startswith(below) for said in _environ(pid))
    ]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environ(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def own_pid(pid: int) -> int:
    """The pid that a process has in its own table, which may be another machine's."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = [line for line in status if line.startswith("NSpid:")]
    return int(line.split()[-1])


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Blocks until a process has ended; False after `timeout_s`. Works for no child of ours, too."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ready, _, _ = select.select([descriptor], [], [], timeout_s)
        return bool(ready)
    finally:
        os.close(descriptor)


def end_processes(root: str, grace_s: float = 10.0) -> None:
    """SIGTERM, then SIGKILL, to every process of the job but the caller; waits for their ends."""
    for sign, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        pids = [pid for pid in processes_of(root) if pid != os.getpid() and is_running(pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        limit = time.monotonic() + patience_s
        for pid in pids:
            wait_gone(pid, max(0.0, limit - time.monotonic()))
