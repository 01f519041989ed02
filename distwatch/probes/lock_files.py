"""Who holds a lock file: by the kernel's table of locks, or by the file's own content."""

from __future__ import annotations

import os
import re
import time

from distwatch.foreign_files import open_named, read_and_close
from distwatch.probes.procfs import all_pids, argv_of, read_text
from distwatch.redaction import redact_command
from distwatch.state.bounds import whole_number
from distwatch.state.events import LockHolder, LockLooked

_LOCK = re.compile(r"\d+: (?:FLOCK|POSIX|OFDLCK) +\w+ +\w+ +(-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")
"""A line of /proc/locks about a holder; lines about waiters begin with `->`."""
_WORDS_READ = 400
HOLDERS = 8


def look_at_lock(host: str, path: str) -> LockLooked:
    """A lock file now. May block where its file system blocks: call it in the background.

    A flock or fcntl lock is in the kernel's table, and ends with its process. Where a file system has
    neither, the file itself is the lock (filelock's SoftFileLock): its content names the process that
    made it, and it stays when that process is killed. A file without words (torch's FileBaton) is held by
    whoever has it open.
    """
    try:
        descriptor = open_named(path)
        status = os.fstat(descriptor)
        words = read_and_close(descriptor, _WORDS_READ)
    except FileNotFoundError:
        return LockLooked(host=host, path=path, exists=False)
    except OSError as error:
        return LockLooked(host=host, path=path, not_observed=error.strerror or str(error))
    age_s = max(0.0, time.time() - status.st_mtime)
    pids = _by_kernel(status)
    if pids:
        holders = tuple(_holder(pid) for pid in pids[:HOLDERS])
        return LockLooked(host=host, path=path, holders=holders, age_s=age_s)
    pid, says_host = _by_words(words)
    here = says_host in ("", host)
    holders = (_holder(pid),) if pid and here else ()
    if not words.strip():
        holders = tuple(_holder(pid) for pid in _who_has_open(status.st_ino)[:HOLDERS])
    return LockLooked(
        host=host, path=path, holders=holders, says_host="" if here else says_host, age_s=age_s
    )


def _by_kernel(status: os.stat_result) -> list[int]:
    device = (os.major(status.st_dev), os.minor(status.st_dev))
    found: dict[int, None] = {}
    for line in read_text("/proc/locks").splitlines():
        if (match := _LOCK.match(line)) and int(match[4]) == status.st_ino:
            # Some file systems show another device in the table than stat does: then only the inode counts.
            same = (int(match[2], 16), int(match[3], 16)) == device
            pid = max(0, int(match[1]))
            if same or (pid and _has_open(pid, status.st_ino)):
                found[pid] = None
    return list(found)


def _who_has_open(inode: int) -> list[int]:
    return [pid for pid in all_pids() if _has_open(pid, inode)]


def _has_open(pid: int, inode: int) -> bool:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            if os.stat(f"/proc/{pid}/fd/{name}").st_ino == inode:
                return True
        except OSError:
            continue
    return False


def _by_words(words: bytes) -> tuple[int, str]:
    """The pid and host in a soft lock's file; 0 and '' where it names none."""
    lines = words.decode("utf-8", "replace").splitlines()
    pid = (whole_number(lines[0]) if lines else None) or 0
    return pid, (lines[1].strip() if pid and len(lines) > 1 else "")


def _holder(pid: int) -> LockHolder:
    if not pid:
        return LockHolder(pid=0)
    command = redact_command(argv_of(pid)[:8])
    return LockHolder(pid=pid, command=command, alive=os.path.exists(f"/proc/{pid}"))
