"""Ends a call of torch that waits for its store, from another thread.

Nothing can raise into a thread that is inside C++. But a store's client that loses its
connection raises by itself: so this process's own connections to the endpoint are shut down.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection


def cut_connections(port: int, *, spared: Collection[int] = ()) -> int:
    """Shuts down this process's own TCP connections to a port; how many there were.

    Args:
        spared: file descriptors that are left alone.
    """
    cut = 0
    for name in _descriptors():
        descriptor = int(name)
        if descriptor in spared or not _is_socket(descriptor):
            continue
        with contextlib.suppress(OSError), _duplicate(descriptor) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and _peer(connection) == port:
                connection.shutdown(socket.SHUT_RDWR)
                cut += 1
    return cut


def _descriptors() -> list[str]:
    try:
        return os.listdir("/proc/self/fd")
    except OSError:
        return []


def _is_socket(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:
        return False


def _duplicate(descriptor: int) -> socket.socket:
    # The original stays torch's to close.
    return socket.socket(fileno=os.dup(descriptor))


def _peer(connection: socket.socket) -> int:
    return int(connection.getpeername()[1])
