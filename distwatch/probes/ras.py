"""NCCL's RAS service: where a process listens for questions, and one question to it.

NCCL 2.24 and later answer on a TCP port, one process for all processes of its job. The answer is JSON from
2.28.7 on, else text. Only commands that change nothing are ever sent: since 2.31 there are others.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable

import msgspec

from distwatch.probes.descriptors import sockets_of
from distwatch.probes.listeners import listening_on
from distwatch.probes.table import read_environ
from distwatch.state.addresses import plain_address
from distwatch.state.bounds import whole_number

_PORT = 28028
_HIGHEST_PORT = 65535
LARGEST = 32 << 20
"""Bytes of an answer: some 300 for each rank of each communicator."""
COLLECTED_WITHIN_S = 3
"""How long the service may wait for processes that do not answer it."""
ANSWERED_WITHIN_S = 12.0
_LINE = 256


class NoAnswer(Exception):
    """The service could not be asked; the text says why."""


class RasListener(msgspec.Struct, frozen=True, kw_only=True):
    """A socket on which a process answers."""

    address: str
    port: int
    pid: int
    shared: bool = False
    """Another process listens there too, and may get the question: NCCL lets all of a user's share one port."""


def find_listeners(pids: Iterable[int]) -> list[RasListener]:
    """Where these processes listen for questions; only in this network namespace.

    Raises:
        NoAnswer: none of them does.
    """
    here, found, unreadable = _network_of("self"), list[RasListener](), 0
    sockets: dict[int, dict[str, tuple[str, int]]] = {}
    held: dict[int, set[str]] = {}
    for pid in pids:
        port = _port_of(read_environ(pid))
        if port is None or _network_of(pid) != here:
            continue
        try:
            held[pid] = sockets_of(pid)
        except OSError:
            unreadable += 1
            continue
        if port not in sockets:
            sockets[port] = listening_on(port, None)
        for inode in held[pid] & sockets[port].keys():
            found.append(RasListener(address=sockets[port][inode][0], port=port, pid=pid))
    if not found:
        unseen = f"; {unreadable} of them cannot be read by this user" if unreadable else ""
        raise NoAnswer(
            f"no process of the job listens for questions to NCCL's RAS here (it came with NCCL 2.24, and "
            f"NCCL_RAS_ENABLE=0 turns it off){unseen}"
        )
    ours = {inode for inodes in held.values() for inode in inodes}
    return [
        msgspec.structs.replace(one, shared=bool(sockets[one.port].keys() - ours)) for one in found
    ]


def _port_of(environ: dict[str, str] | None) -> int | None:
    """The port of a process's service; None where the service is off."""
    if environ is None or environ.get("NCCL_RAS_ENABLE", "").strip() == "0":
        return None
    if not (named := environ.get("NCCL_RAS_ADDR", "").strip()):
        return _PORT
    port = whole_number(named.rpartition(":")[2])
    return port if port is not None and 0 < port <= _HIGHEST_PORT else None


def _network_of(pid: int | str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def ask_status(listener: RasListener) -> bytes:
    """The service's answer for the whole job: JSON, else text.

    Blocks for at most ANSWERED_WITHIN_S.

    Raises:
        NoAnswer: it does not answer in time, answers too much, or is something else.
    """
    until = time.monotonic() + ANSWERED_WITHIN_S
    address = plain_address(listener.address)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    loopback = "::1" if address.version == 6 else "127.0.0.1"
    target = loopback if address.is_unspecified else str(address)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(_left(until))
            connection.connect((target, listener.port))
            # Whoever does not greet as RAS does is sent nothing more.
            if not _asked(connection, "CLIENT PROTOCOL 2", until).startswith("SERVER PROTOCOL"):
                raise NoAnswer(f"what answers on port {listener.port} is not NCCL's RAS")
            _asked(connection, f"TIMEOUT {COLLECTED_WITHIN_S}", until)
            is_json = _asked(connection, "SET FORMAT json", until) == "OK"
            connection.sendall(b"STATUS\n" if is_json else b"VERBOSE STATUS\n")
            return _rest(connection, until)
    except OSError as error:
        raise NoAnswer(f"NCCL's RAS did not answer: {error}") from None


def _asked(connection: socket.socket, command: str, until: float) -> str:
    """The line that answers a command."""
    connection.sendall(command.encode() + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(_left(until))
        byte = connection.recv(1)
        if not byte or len(line) > _LINE:
            raise NoAnswer(
                "NCCL's RAS closed the connection" if not byte else "its lines are too long"
            )
        line += byte
    return line.decode("utf-8", "replace").strip()


def _rest(connection: socket.socket, until: float) -> bytes:
    """All that comes until the other side closes."""
    parts: list[bytes] = []
    size = 0
    while True:
        connection.settimeout(_left(until))
        if not (part := connection.recv(1 << 16)):
            return b"".join(parts)
        parts.append(part)
        if (size := size + len(part)) > LARGEST:
            raise NoAnswer(f"the answer of NCCL's RAS is larger than {LARGEST >> 20} MiB")


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"not within {ANSWERED_WITHIN_S:.0f} s")
    return left
