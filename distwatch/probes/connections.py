"""TCP connections of a process that lose data: the kernel sends the same bytes again and again."""

from __future__ import annotations

from distwatch.probes.descriptors import address_of, sockets_of
from distwatch.probes.procfs import read_text
from distwatch.state.addresses import is_loopback, plain_address
from distwatch.state.events import Connection, ConnectionsSeen

_STATES = {"01": "established", "02": "syn_sent", "04": "fin_wait1", "08": "close_wait", "09": "last_ack"}  # fmt: skip
_RETRANSMITTING = "01"
"""The retransmission timer: a closed window has another timer, and means that the peer does not read."""
SENT_AGAIN = 2
LISTED = 16
ADDRESSES = 8


def examine_connections(key: str, pid: int) -> ConnectionsSeen | None:
    """The process's connections beyond this host; None where they cannot be read.

    A connection is stuck where its oldest data, or its opening, was sent at least `SENT_AGAIN` more
    times without an answer. This reads a table of all connections of the process's network
    namespace: one millisecond for each thousand of them.
    """
    try:
        inodes = sockets_of(pid)
    except OSError:
        return None
    addresses: dict[str, None] = {}
    stuck: list[Connection] = []
    for table in ("tcp", "tcp6"):
        for line in read_text(f"/proc/{pid}/net/{table}").splitlines()[1:]:
            fields = line.split()
            if len(fields) < 10 or fields[9] not in inodes or fields[3] not in _STATES:
                continue
            local, peer = address_of(fields[1]), address_of(fields[2])
            if is_loopback(local.rpartition(":")[0]):
                continue
            addresses.setdefault(local.rpartition(":")[0])
            if (found := _stuck(fields, local, peer)) is not None:
                stuck.append(found)
    stuck.sort(key=lambda one: (-one.retransmits, one.peer))
    return ConnectionsSeen(
        process=key, addresses=tuple(addresses)[:ADDRESSES], stuck=tuple(stuck[:LISTED])
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


def _stuck(fields: list[str], local: str, peer: str) -> Connection | None:
    unsent = int(fields[4].partition(":")[0], 16)
    timer = fields[5].partition(":")[0]
    again = int(fields[6], 16)
    opening = fields[3] == "02"
    if timer != _RETRANSMITTING or again < SENT_AGAIN or not (unsent or opening):
        return None
    return Connection(
        local=local,
        peer=peer,
        state=_STATES[fields[3]],
        unacknowledged_bytes=unsent,
        retransmits=again,
    )
