"""One observer for each run and node: the process that holds the lock. Light, for processes that only ask."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from distwatch.foreign_files import open_ours
from distwatch.runfolder import RunFolder

_LOCK_TRIES = 5


def take_lock(folder: RunFolder) -> int | None:
    """Takes the observer's lock and writes our pid into it; None where another process holds it."""
    descriptor = open_ours(folder.lock, os.O_RDWR | os.O_CREAT)
    for attempt in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # `lock_holder` also takes it for a moment, to see whether it is free.
            if attempt == _LOCK_TRIES - 1:
                os.close(descriptor)
                return None
            time.sleep(0.02)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def free_lock(descriptor: int) -> None:
    """Releases the lock, and removes our pid from it."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def lock_holder(folder: RunFolder) -> int | None:
    """The pid of the observer that runs on this node, 0 where it is not known; None: none runs."""
    try:
        descriptor = open_ours(folder.lock, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(descriptor, 32, 0).split()
        return int(said[0]) if said and said[0].isdigit() else 0
    else:
        return None
    finally:
        os.close(descriptor)
