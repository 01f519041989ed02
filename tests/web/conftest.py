"""A server in a thread of the test, and what asks it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distwatch.web.pages import Pages
from distwatch.web.server import WebServer
from tests.cli.conftest import healthy, hung, root

__all__ = ["healthy", "hung", "root"]

TOKEN = b"0123456789abcdef-a-token"


class Reply:
    """An answer that was read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.text = self.body.decode()


class Client:
    """Asks one server; each request is a connection of its own."""

    def __init__(self, server: WebServer) -> None:
        self.address = server.address
        self.url = server.url
        self._server = server

    def stop(self) -> None:
        """Ends the server; returns before it has ended."""
        self._server.stop()

    def ask(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """Headers by name, `Host` by default as the address says."""
        connection = http.client.HTTPConnection(str(self.address[0]), self.address[1], timeout=30)
        try:
            connection.request(method, path, headers=headers)
            return Reply(connection.getresponse())
        finally:
            connection.close()


Serve = Callable[..., Client]


@pytest.fixture
def serve(root: Path) -> Iterator[Serve]:
    """Starts servers on the runs under `root`."""
    started: list[tuple[WebServer, threading.Thread]] = []

    def start(target: str | None = None, token: bytes | None = None, port: int = 0) -> Client:
        server = WebServer(Pages(str(root), target), "127.0.0.1", port, token)
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((server, thread))
        return Client(server)

    yield start
    for server, thread in started:
        server.stop()
        thread.join()
