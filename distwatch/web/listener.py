"""The socket that listens: whoever may not ask is turned away before a byte of theirs is read, TLS included."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from distwatch.errors import DistwatchError
from distwatch.probes.connections import owner_of_peer
from distwatch.state.addresses import is_loopback
from distwatch.web.access import Access, listening_address
from distwatch.web.admission import CLIENTS, Address, Admission


class Connection(socket.socket):
    """An accepted connection that tells when it is closed."""

    when_closed: Callable[[], None] | None = None

    def close(self) -> None:
        """Closes it, and tells so once."""
        super().close()
        told, self.when_closed = self.when_closed, None
        if told is not None:
            told()


class Listener(socket.socket):
    """Listens once constructed. The event loop calls `accept`, as of any socket."""

    def __init__(self, host: str, port: int, access: Access, admission: Admission) -> None:
        """Begins to listen; port 0 chooses one.

        Raises:
            UsageError: other machines could connect, and there is no token.
            DistwatchError: it cannot listen there.
        """
        family, address = listening_address(host, port, has_token=access.asks_for_a_token)
        super().__init__(family, socket.SOCK_STREAM)
        self._access = access
        self._admission = admission
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind((address, port))
            self.listen(CLIENTS)
            self.setblocking(False)
        except OSError as error:
            self.close()
            raise DistwatchError(
                f"cannot listen at {address}, port {port}: {error.strerror or error}",
                advice="Choose another --port; 0 takes a free one.",
            ) from error

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection of somebody who may ask.

        Raises:
            ConnectionAbortedError: the next one was closed; the event loop comes again.
        """
        accepted, address = super().accept()
        client = (str(address[0]), int(address[1]))
        connection = Connection(fileno=accepted.detach())
        if not self._admits(connection, client):
            connection.close()
            raise ConnectionAbortedError("nobody who may ask")
        connection.when_closed = lambda: self._admission.leave(client)
        return connection, address

    def _admits(self, connection: socket.socket, client: Address) -> bool:
        peer: str | None = client[0]
        if is_loopback(client[0]):
            owner = owner_of_peer(client, connection.getsockname()[:2])
            peer = None if self._access.knows(owner) else f"uid {owner}"
        if peer is not None and not self._access.asks_for_a_token:
            return False
        return self._admission.arrive(connection, client, peer)
