"""What a file descriptor of another process refers to: a path, a pipe, or a socket and its peer."""

from __future__ import annotations

import functools
import os
import re
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

from distwatch.probes.procfs import read_text

_STANDARD = {0: "stdin", 1: "stdout", 2: "stderr"}
_INODE = re.compile(r"socket:\[(\d+)\]")
_CONNECTING, _LISTENING = "02", "0A"
_KEPT = 4096

# The socket tables of a busy node are long; an inode's endpoints do not change.
_known: dict[str, str] = {}


def describe_descriptor(pid: int, descriptor: int, *, look_up: bool = True) -> str:
    """`/data/shard-3`, `socket 10.0.0.1:1234→10.0.0.2:29500`, `stdin (/dev/null)`; '' if unknown.

    Args:
        look_up: whether to read the socket tables (a millisecond or more); otherwise only sockets
            that were looked up before have their endpoints.
    """
    try:
        target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""
    target = os.fsencode(target).decode("utf-8", "replace")
    if match := _INODE.fullmatch(target):
        target = _socket(pid, match[1], look_up)
    return f"{_STANDARD[descriptor]} ({target})" if descriptor in _STANDARD else target


def sockets_of(pid: int) -> set[str]:
    """The inodes of its sockets; raises OSError where it is gone or not readable."""
    found: set[str] = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            match = _INODE.fullmatch(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
        if match:
            found.add(match[1])
    return found


def socket_inode(pid: int, descriptor: int) -> str:
    """The inode of a socket; '' where the descriptor is of something else."""
    try:
        match = _INODE.fullmatch(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    except OSError:
        return ""
    return match[1] if match else ""


def watched_by_epoll(pid: int, descriptor: int) -> list[int]:
    """The descriptors that an epoll descriptor waits for."""
    lines = read_text(f"/proc/{pid}/fdinfo/{descriptor}").splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("tfd:")]


def _socket(pid: int, inode: str, look_up: bool) -> str:
    if inode in _known:
        return _known[inode]
    if not look_up:
        return "socket"
    text, lasting = _find_socket(pid, inode)
    if lasting:
        if len(_known) >= _KEPT:
            _known.clear()
        _known[inode] = text
    return text


def _find_socket(pid: int, inode: str) -> tuple[str, bool]:
    """A socket in words, and whether the words stay true while it is open."""
    # The process's own tables: it may be in another network namespace.
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in _lines_with(pid, table, inode):
            fields = line.split()
            if len(fields) > 9 and fields[9] == inode:
                return _internet(table, *fields[1:4])
    for line in _lines_with(pid, "unix", inode):
        unix = line.split(None, 7)
        if len(unix) > 6 and unix[6] == inode:
            return f"unix socket {unix[7].strip()}" if len(unix) > 7 else "unix socket", True
    return "socket", False


def _lines_with(pid: int, table: str, inode: str) -> list[str]:
    text = read_text(f"/proc/{pid}/net/{table}")
    return [line for line in text.splitlines() if inode in line] if inode in text else []


def _internet(table: str, local: str, peer: str, state: str) -> tuple[str, bool]:
    kind = "socket" if table.startswith("tcp") else "udp socket"
    if table.startswith("tcp") and state == _LISTENING:
        return f"{kind} listening on {address_of(local)}", True
    text = f"{kind} {address_of(local)}→{address_of(peer)}"
    return (f"{text} (connecting)", False) if state == _CONNECTING else (text, True)


def address_of(text: str) -> str:
    """`10.0.0.1:29500` for an address in the format of /proc/net/tcp."""
    host, _, port = text.partition(":")
    address = host_of(host)
    return f"[{address}]:{int(port, 16)}" if address.version == 6 else f"{address}:{int(port, 16)}"


@functools.lru_cache(1024)
def host_of(text: str) -> IPv4Address | IPv6Address:
    """The address without its port; one that is mapped into IPv6 as IPv4."""
    # The kernel prints 32-bit words in the machine's byte order.
    step = -1 if sys.byteorder == "little" else 1
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::step] for i in range(0, len(text), 8))
    address = ip_address(raw)
    return (address.version == 6 and address.ipv4_mapped) or address
