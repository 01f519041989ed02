"""A journal's beginning: whose it is, and how the process was started."""

from __future__ import annotations

import os
import random
import sys
import time

from distwatch import __version__
from distwatch.redaction import redact_command
from distwatch.runfolder import boot_id, host_name, start_ticks
from distwatch.settings import Settings
from distwatch.state.events import ProcessStarted
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import identify


def file_header(capacity: int) -> FileHeader:
    """The header of this process's journal, whose ring has `capacity` bytes."""
    pid, host = os.getpid(), host_name()
    ticks = start_ticks(pid)
    return FileHeader(
        stream=process_key(host, pid, ticks),
        host=host,
        pid=pid,
        start_ticks=ticks,
        boot_id=boot_id(),
        wall_offset_ns=time.time_ns() - time.monotonic_ns(),
        salt=random.SystemRandom().getrandbits(32),
        capacity=capacity,
    )


def process_started(header: FileHeader, role: str, settings: Settings) -> ProcessStarted:
    """The first event of that journal."""
    return ProcessStarted(
        host=header.host,
        pid=header.pid,
        start_ticks=header.start_ticks,
        ppid=os.getppid(),
        role=role if role in ("rank", "launcher") else "other",  # type: ignore[arg-type]
        identity=identify(os.environ),
        command=redact_command(sys.orig_argv[:32]),
        python=sys.version.split()[0],
        cwd=_cwd(),
        distwatch_version=__version__,
        deadlines=settings.deadlines,
        on_hang=settings.on_hang,
    )


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""
