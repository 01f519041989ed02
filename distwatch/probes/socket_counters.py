"""How many bytes TCP connections have received: the kernel's own count, which /proc does not show."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator

_SOCK_DIAG = 4
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_DUMP = 0x301
"""NLM_F_REQUEST, NLM_F_DUMP."""
_INFO = 2
_STATES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8
"""Established, and those of which one side has closed."""
_HEADER, _REQUEST, _ATTRIBUTE = (
    struct.Struct("=IHHII"),
    struct.Struct("=BBBBI48x"),
    struct.Struct("=HH"),
)
_INODE_AT, _MESSAGE = 68, 72
_RECEIVED_AT = 128
"""Of tcpi_bytes_received in struct tcp_info; Linux has it since 4.1."""
_COUNT = struct.Struct("=Q")
_WITHIN_S = 0.2
_AT_ONCE = 1 << 17


def received_by(inodes: Collection[str]) -> dict[str, int]:
    """The bytes that TCP sockets have received so far, by inode; of this network namespace alone.

    A socket is missing that is not TCP, that is of another namespace, or where the kernel does not answer.
    """
    wanted = {int(inode) for inode in inodes}
    found: dict[str, int] = {}
    for family in (socket.AF_INET, socket.AF_INET6) if wanted else ():
        try:
            for inode, received in _connections(family):
                if inode in wanted:
                    found[str(inode)] = received
        except (OSError, struct.error):
            continue  # no inet_diag in this kernel, or it is not allowed
    return found


def _connections(family: int) -> Iterator[tuple[int, int]]:
    """Inode and bytes of each connection, as `ss --info` asks for them."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _STATES)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_WITHIN_S)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _DUMP, 1, 0) + body)
        while True:
            data, at = kernel.recv(_AT_ONCE), 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind in (_DONE, _ERROR) or length < _HEADER.size:
                    return
                yield from _connection(data[at + _HEADER.size : at + length])
                at += _aligned(length)


def _connection(message: bytes) -> Iterator[tuple[int, int]]:
    (inode,) = struct.unpack_from("=I", message, _INODE_AT)
    at = _MESSAGE
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            return
        if kind == _INFO and length >= _ATTRIBUTE.size + _RECEIVED_AT + _COUNT.size:
            (received,) = _COUNT.unpack_from(message, at + _ATTRIBUTE.size + _RECEIVED_AT)
            yield inode, received
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
