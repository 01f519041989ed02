"""The HTTP server: GET and HEAD, one answer for each connection."""

from __future__ import annotations

import logging
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from distwatch.errors import DistwatchError
from distwatch.probes.connections import owner_of_peer
from distwatch.report.page_script import script_hash
from distwatch.state.addresses import is_loopback
from distwatch.web.access import Access, listening_address
from distwatch.web.admission import CLIENTS, REQUEST_WITHIN_S, Admission
from distwatch.web.pages import Answer, Pages, sentence

log = logging.getLogger("distwatch.web")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    f"script-src '{script_hash()}'; "  # the report's own, and no other
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_HEADERS_OF = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": "GET, HEAD"}}


class WebServer(ThreadingHTTPServer):
    """Listens once constructed; answers while `serve_forever` runs."""

    daemon_threads = True
    request_queue_size = CLIENTS

    def __init__(self, pages: Pages, host: str, port: int, token: bytes | None = None) -> None:
        """Begins to listen; port 0 chooses one.

        Raises:
            UsageError: other machines could connect, and there is no token.
            DistwatchError: it cannot listen there.
        """
        self.address_family, address = listening_address(host, port, has_token=token is not None)
        self.pages = pages
        self.access = Access(token, host)
        self.rendering = threading.Lock()
        """One page at a time: a report of a large run takes memory."""
        self.admission = Admission()
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            raise DistwatchError(
                f"cannot listen at {address}, port {port}: {error.strerror or error}",
                advice="Choose another --port; 0 takes a free one.",
            ) from error

    @property
    def url(self) -> str:
        """Where it listens, for people."""
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    def server_bind(self) -> None:
        """Binds without looking up this machine's name, which may take seconds of DNS."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own, if there is room."""
        peer, owner = str(client_address[0]), None
        if is_loopback(peer):
            owner = owner_of_peer(client_address[:2], request.getsockname()[:2])
            peer = f"uid {owner}"
        is_known = self.access.knows(owner)
        if not self.admission.arrive(request, peer, is_known=is_known):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.admission.leave(request)

    def service_actions(self) -> None:
        """Between connections, and twice a second."""
        self.admission.end_overdue()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs failures; a client that went away is not one."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.warning("a request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: WebServer
    server_version = "distwatch"
    sys_version = ""
    default_request_version = "HTTP/1.0"
    timeout = REQUEST_WITHIN_S

    def do_GET(self) -> None:
        """Answers with a page."""
        if self.server.admission.hear(self.connection):
            self._reply(self._answer())

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Requests that the base class rejects get a sentence, too."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._reply(sentence(405, "this server is read-only: use GET or HEAD"))
        else:
            self._reply(sentence(code, message or HTTPStatus(code).phrase))

    def _answer(self) -> Answer:
        client, here = self.client_address[:2], self.connection.getsockname()[:2]
        if refusal := self.server.access.refuses(self.headers, client, here):
            return refusal
        if not self.server.admission.accept(self.connection):
            return sentence(503, f"all {CLIENTS} places are taken: try again")
        try:
            with self.server.rendering:
                return self.server.pages.answer(self.path.partition("?")[0])
        except Exception as error:
            log.warning("%s could not be shown", ascii(self.path), exc_info=True)
            return sentence(500, f"unexpected {type(error).__name__}; the server's log says more")

    def _reply(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        more = _HEADERS_OF.get(answer.status, {})
        for name, value in {**headers, **_HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Requests are not logged."""
