"""Which connections may stay, and for how long until their request is whole."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from distwatch.observer.strangers import Strangers

CLIENTS = 32
"""The most connections at once of those that are known; further ones are closed without an answer."""
STRANGERS = 16
"""The most connections at once that have not shown yet that they may ask."""
REQUEST_WITHIN_S = 10.0
"""All of a request has come by then, however slowly its bytes drip."""


class Admission:
    """From any thread. A connection that has to go is shut down: whoever reads it finds its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[socket.socket] = set()
        self._strangers: Strangers[socket.socket] = Strangers(STRANGERS)
        self._due: dict[socket.socket, float] = {}

    def arrive(self, connection: socket.socket, peer: str, *, is_known: bool) -> bool:
        """Gives a new connection a place; False where there is none.

        Args:
            peer: who it is, as far as that can be seen.
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
        """Its request is whole; False where that came too late."""
        with self._lock:
            return self._due.pop(connection, None) is not None

    def accept(self, connection: socket.socket) -> bool:
        """It may ask; False where all places for those who may are taken."""
        with self._lock:
            if self._strangers.remove(connection):
                if len(self._known) >= CLIENTS:
                    return False
                self._known.add(connection)
            return True

    def leave(self, connection: socket.socket) -> None:
        """It is over."""
        with self._lock:
            self._known.discard(connection)
            self._strangers.remove(connection)
            self._due.pop(connection, None)

    def end_overdue(self) -> None:
        """Shuts down whoever has not sent a whole request in time."""
        now = time.monotonic()
        with self._lock:
            for connection in [one for one, due in self._due.items() if due < now]:
                del self._due[connection]
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
