"""The processes that listen on a TCP port of this host."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec

from distwatch.probes.descriptors import host_of, sockets_of
from distwatch.probes.discovery import read_command
from distwatch.probes.procfs import all_pids, read_text, stat_fields
from distwatch.runfolder import host_name
from distwatch.state.addresses import plain_address
from distwatch.state.frames import process_key
from distwatch.visible_text import shorten

_LISTENING = "0A"
_DEPTH = 16


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A listening socket and its process."""

    address: str = "::"
    """The bound address; `0.0.0.0` and `::` mean every address."""
    pid: int | None = None
    command: tuple[str, ...] = ()
    """Its command line, secrets redacted."""
    process: str | None = None
    """The process's key in journals."""
    why: str = "a process that this user cannot see"
    """A description of the owner, where the process is not known."""

    def __str__(self) -> str:
        if self.pid is None:
            return self.why
        return f"pid {self.pid} ({shorten(' '.join(self.command), 200) or 'no command line'})"

    def nearness(self, address: str) -> int:
        """How well it matches an address: 2 bound to it, 1 to every address, 0 to another."""
        own, other = plain_address(self.address), plain_address(address)
        if own == other or (own.is_loopback and other.is_unspecified):
            return 2
        # An IPv6 socket also accepts IPv4 connections, unless its owner disabled that.
        return 1 if own.is_unspecified and (own.version == 6 or other.version == 4) else 0


def listeners_of(
    port: int, *, network_of: int | None = None, likely: Iterable[int] = ()
) -> list[Listener]:
    """Every socket that listens on a port, at any address; empty where the port is free.

    Args:
        network_of: a process whose network namespace is meant; default: this process's own.
        likely: processes that probably listen: the whole process table is read only if they do not.

    Raises:
        ProcessLookupError: that process has ended, so its network namespace is not visible.
    """
    sockets = listening_on(port, network_of)
    holders, denied = _holders(set(sockets), likely)
    found = []
    for inode, (address, uid) in sockets.items():
        found.append(_listener(address, holders.get(inode), _who_instead(uid, denied)))
    return sorted(found, key=lambda one: (one.address, one.pid or 0))


def listening_on(port: int, network_of: int | None) -> dict[str, tuple[str, int]]:
    """Address and user of each socket that listens on a port, by its inode."""
    place = f"/proc/{'self' if network_of is None else network_of}/net"
    if not os.path.exists(f"{place}/tcp"):
        raise ProcessLookupError(
            f"process {network_of} has ended, and its network namespace with it"
        )
    found = {}
    needle = f":{port:04X} "
    for table in ("tcp", "tcp6"):
        for line in read_text(f"{place}/{table}").splitlines():
            # A busy host has tens of thousands of lines, few of which are about that port.
            row = line.split() if needle in line else []
            if len(row) < 10 or row[3] != _LISTENING:
                continue
            address, _, hexport = row[1].partition(":")
            if int(hexport, 16) == port:
                found[row[9]] = (str(host_of(address)), int(row[7]))
    return found


def _holders(inodes: set[str], likely: Iterable[int]) -> tuple[dict[str, int], bool]:
    """The process of each socket, and whether some process could not be examined."""
    found: dict[str, int] = {}
    denied = False
    for pid in _in_turn(likely) if inodes else ():
        try:
            held = sockets_of(pid)
        except OSError as error:
            denied = denied or isinstance(error, PermissionError)
            continue
        for inode in held & (inodes - found.keys()):
            found[inode] = _first_holder(pid, inode)
        if found.keys() >= inodes:
            break
    return found, denied


def _in_turn(likely: Iterable[int]) -> Iterator[int]:
    """The likely processes first; the process table is read only after those."""
    yield from likely
    yield from all_pids()


def _first_holder(pid: int, inode: str) -> int:
    """A forked child holds its parent's sockets, too: the parent is the listener."""
    for _ in range(_DEPTH):
        fields = stat_fields(pid)
        parent = int(fields[1]) if fields else 0
        try:
            if parent <= 0 or inode not in sockets_of(parent):
                return pid
        except OSError:
            return pid
        pid = parent
    return pid


def _who_instead(uid: int, denied: bool) -> str:
    if denied:
        return f"a process that this user cannot see (of user {uid})"
    return f"a process in another container (user {uid}), which is not visible here"


def _listener(address: str, pid: int | None, instead: str) -> Listener:
    fields = stat_fields(pid) if pid is not None else None
    if pid is None or fields is None:
        return Listener(address=address, why=instead)
    return Listener(
        address=address,
        pid=pid,
        command=read_command(pid),
        process=process_key(host_name(), pid, int(fields[19])),
    )
