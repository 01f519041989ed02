"""Which connections may stay, and how long they may take to send a request."""

from __future__ import annotations

import contextlib
import socket
import time

from distwatch.web.strangers import Strangers

CLIENTS = 32
"""The most known connections at once; further ones are closed without an answer."""
STRANGERS = 16
"""The most connections at once that have not shown a token yet."""
REQUEST_WITHIN_S = 10.0
"""The time limit for a whole request, TLS included, however slowly its bytes arrive."""

Address = tuple[str, int]


class Admission:
    """The table of open connections, by the address of the other side. For one event loop.

    A connection that must go is shut down, so its reader finds its end.
    """

    def __init__(self) -> None:
        self._known: set[Address] = set()
        self._strangers: Strangers[Address] = Strangers(STRANGERS)
        self._sockets: dict[Address, socket.socket] = {}
        self._due: dict[Address, float] = {}

    def arrive(self, connection: socket.socket, client: Address, peer: str | None) -> bool:
        """Gives a new connection a place; False if there is none.

        Args:
            peer: whose connection it is, of one that has to show a token; None: it has access.
        """
        if peer is None and len(self._known) >= CLIENTS:
            return False
        if peer is None:
            self._known.add(client)
        elif (gone := self._strangers.add(client, peer)) is not None:
            self.shut(gone)
        self._sockets[client] = connection
        self._due[client] = time.monotonic() + REQUEST_WITHIN_S
        return True

    def hear(self, client: Address) -> bool:
        """Notes that the request is complete; False if that was too late."""
        return self._due.pop(client, None) is not None

    def accept(self, client: Address) -> bool:
        """Notes that the connection has access; False if all places for those are taken."""
        if self._strangers.remove(client):
            if len(self._known) >= CLIENTS:
                return False
            self._known.add(client)
        return True

    def finish(self, client: Address, within_s: float) -> None:
        """Notes that the answer is written; the client has so many seconds to take it."""
        if client in self._sockets:
            self._due[client] = time.monotonic() + within_s

    def leave(self, client: Address) -> None:
        """Notes that the connection has ended."""
        self._known.discard(client)
        self._strangers.remove(client)
        self._sockets.pop(client, None)
        self._due.pop(client, None)

    def end_overdue(self) -> None:
        """Shuts down connections that have not sent a whole request, or not taken the answer, in time."""
        now = time.monotonic()
        for client in [one for one, due in self._due.items() if due < now]:
            self.shut(client)

    def shut(self, client: Address) -> None:
        """Ends a connection at once."""
        self._due.pop(client, None)
        with contextlib.suppress(OSError, KeyError):
            self._sockets[client].shutdown(socket.SHUT_RDWR)
