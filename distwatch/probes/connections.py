"""TCP connections of a process: who is at the other end, and whether data is on its way or is lost."""

from __future__ import annotations

from distwatch.probes.descriptors import address_of, sockets_of
from distwatch.probes.procfs import read_text
from distwatch.state.addresses import is_loopback, plain_address
from distwatch.state.events import Connection, ConnectionsSeen

_STATES = {
    "01": "established", "02": "syn_sent", "04": "fin_wait1", "05": "fin_wait2", "08": "close_wait",
    "09": "last_ack", "0B": "closing",
}  # fmt: skip
_RETRANSMITTING = "01"
"""The retransmission timer: a closed window has another timer, and means that the peer does not read."""
SENT_AGAIN = 2
LISTED = 16
HELD = 256
"""A rank of a larger world has more; then what is between two of them is not known whole."""
ADDRESSES = 8


def examine_connections(key: str, pid: int, *, whole: bool = False) -> ConnectionsSeen | None:
    """The process's connections beyond this host; None where they cannot be read.

    A connection is stuck where its oldest data, or its opening, was sent at least `SENT_AGAIN` more
    times without an answer. This reads a table of all connections of the process's network
    namespace: one millisecond for each thousand of them.

    Args:
        whole: also list all its connections, as far as there are no more than HELD.
    """
    try:
        inodes = sockets_of(pid)
    except OSError:
        return None
    addresses: dict[str, None] = {}
    stuck: list[Connection] = []
    held: list[Connection] = []
    for table in ("tcp", "tcp6"):
        for line in read_text(f"/proc/{pid}/net/{table}").splitlines()[1:]:
            fields = line.split()
            if len(fields) < 10 or fields[9] not in inodes or fields[3] not in _STATES:
                continue
            connection = _connection(fields)
            if whole:
                held.append(connection)
            own = connection.local.rpartition(":")[0]
            if is_loopback(own):
                continue
            addresses.setdefault(own)
            if _is_stuck(fields, connection):
                stuck.append(connection)
    stuck.sort(key=lambda one: (-one.retransmits, one.peer))
    held.sort(key=lambda one: (one.local, one.peer))
    return ConnectionsSeen(
        process=key,
        addresses=tuple(addresses)[:ADDRESSES],
        stuck=tuple(stuck[:LISTED]),
        held=tuple(held[:HELD]),
        unlisted=len(held[HELD:]),
    )


def owner_of_peer(peer: tuple[str, int], here: tuple[str, int]) -> int | None:
    """The uid at the other end of a connection within this machine; None: not visible here.

    Args:
        peer, here: the two ends as address and port, the peer's first.
    """
    ends = [_end(*peer), _end(*here)]
    for table in ("tcp", "tcp6"):
        for line in read_text(f"/proc/self/net/{table}").splitlines()[1:]:
            fields = line.split()
            if len(fields) >= 10 and [address_of(field) for field in fields[1:3]] == ends:
                return int(fields[7])
    return None


def _end(address: str, port: int) -> str:
    # In the kernel's tables, an IPv4 address mapped into IPv6 is the same address.
    host = str(plain_address(address))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _connection(fields: list[str]) -> Connection:
    unsent, _, unread = fields[4].partition(":")
    return Connection(
        local=address_of(fields[1]),
        peer=address_of(fields[2]),
        state=_STATES[fields[3]],
        unacknowledged_bytes=int(unsent, 16),
        retransmits=int(fields[6], 16),
        unread_bytes=int(unread, 16),
    )


def _is_stuck(fields: list[str], connection: Connection) -> bool:
    timer = fields[5].partition(":")[0]
    waits = connection.unacknowledged_bytes or connection.state == "syn_sent"
    return timer == _RETRANSMITTING and connection.retransmits >= SENT_AGAIN and bool(waits)
