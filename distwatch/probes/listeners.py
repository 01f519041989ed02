"""Who listens on a TCP port of this host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec

from distwatch.probes.procfs import all_pids, read_bytes, read_text, stat_fields
from distwatch.redaction import redact_command
from distwatch.state.frames import process_key

_LISTENING = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_ARGUMENTS = 12


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A process that listens. `pid` is None where it is not ours to see."""

    pid: int | None = None
    command: tuple[str, ...] = ()
    process: str | None = None
    """Its key, as journals name it."""

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that this user cannot see"
        return f"pid {self.pid} ({' '.join(self.command)[:200] or 'no command line'})"


def listeners_of(port: int, *, network_of: int | None = None) -> list[Listener]:
    """The processes that listen on a port, on any address; empty where it is free.

    Args:
        network_of: a process whose network it is; this process's own by default.
    """
    inodes = _listening_inodes(port, network_of)
    if not inodes:
        return []
    found = [_listener(pid) for pid in all_pids() if _holds(pid, inodes)]
    return found or [Listener()]


def _listening_inodes(port: int, network_of: int | None) -> set[str]:
    place = f"/proc/{network_of or 'self'}/net"
    rows = (line.split() for table in ("tcp", "tcp6") for line in _rows(f"{place}/{table}"))
    return {
        row[9]
        for row in rows
        if len(row) > 9 and row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port
    }


def _rows(path: str) -> Iterable[str]:
    return read_text(path).splitlines()[1:]


def _holds(pid: int, inodes: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names:
        try:
            found = _SOCKET.fullmatch(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
        if found and found[1] in inodes:
            return True
    return False


def _listener(pid: int) -> Listener:
    argv = read_bytes(f"/proc/{pid}/cmdline").rstrip(b"\0").split(b"\0")
    fields = stat_fields(pid)
    return Listener(
        pid=pid,
        command=tuple(redact_command(p.decode("utf-8", "replace") for p in argv[:_ARGUMENTS])),
        process=process_key(os.uname().nodename, pid, int(fields[19])) if fields else None,
    )
