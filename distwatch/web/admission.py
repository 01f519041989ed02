"""Which connections may stay, and how long they may take to send a request."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from distwatch.observer.strangers import Strangers

CLIENTS = 32
"""The most known connections at once; further ones are closed without an answer."""
STRANGERS = 16
"""The most connections at once that are not known to have access yet."""
REQUEST_WITHIN_S = 10.0
"""The time limit for a whole request, however slowly its bytes arrive."""


class Admission:
    """Thread-safe. A connection that must go is shut down, so its reader finds its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[socket.socket] = set()
        self._strangers: Strangers[socket.socket] = Strangers(STRANGERS)
        self._due: dict[socket.socket, float] = {}

    def arrive(self, connection: socket.socket, peer: str, *, is_known: bool) -> bool:
        """Gives a new connection a place; False if there is none.

        Args:
            peer: the other side, as far as it is known.
        """
        with self._lock:
            if is_known and len(self._known) >= CLIENTS:
                return False
            if is_known:
                self._known.add(connection)
            elif (gone := self._strangers.add(connection, peer)) is not None:
                _shut(gone)
            self._due[connection] = time.monotonic() + REQUEST_WITHIN_S
            return True

    def hear(self, connection: socket.socket) -> bool:
        """Notes that the request is complete; False if that was too late."""
        with self._lock:
            return self._due.pop(connection, None) is not None

    def accept(self, connection: socket.socket) -> bool:
        """Notes that the connection has access; False if all places for those are taken."""
        with self._lock:
            if self._strangers.remove(connection):
                if len(self._known) >= CLIENTS:
                    return False
                self._known.add(connection)
            return True

    def leave(self, connection: socket.socket) -> None:
        """Notes that the connection has ended."""
        with self._lock:
            self._known.discard(connection)
            self._strangers.remove(connection)
            self._due.pop(connection, None)

    def end_overdue(self) -> None:
        """Shuts down connections that have not sent a whole request in time."""
        now = time.monotonic()
        with self._lock:
            for connection in [one for one, due in self._due.items() if due < now]:
                del self._due[connection]
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
