"""The HTTP server: uvicorn on our own listener."""

from __future__ import annotations

import asyncio
import ssl

import uvicorn

from distwatch.errors import UsageError
from distwatch.web.access import Access
from distwatch.web.admission import CLIENTS, Admission
from distwatch.web.application import Application
from distwatch.web.guard import Guard
from distwatch.web.listener import Listener
from distwatch.web.pages import Pages

_ENDS_WITHIN_S = 5


class WebServer:
    """Listens once constructed; answers while `run` runs."""

    def __init__(
        self,
        pages: Pages,
        host: str,
        port: int,
        token: bytes | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        """Begins to listen; port 0 chooses one.

        Args:
            certificate: the files of a TLS certificate, with its chain, and of its key.

        Raises:
            UsageError: other machines could connect, and there is no token; or the certificate is not usable.
            DistwatchError: it cannot listen there.
        """
        self._context = _tls(*certificate) if certificate else None
        self.admission = Admission()
        access = Access(token, host)
        self.application = Application(pages)
        self._listener = Listener(host, port, access, self.admission)
        guard = Guard(self.application.routes(), access, self.admission)
        self._server = _Server(guard, self)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """Where it listens, for people."""
        (name, port), scheme = self.address, "https" if self._context else "http"
        return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}/"

    @property
    def context(self) -> ssl.SSLContext | None:
        """What encrypts its connections; None: nothing does."""
        return self._context

    def run(self) -> None:
        """Answers until `stop`; in the main thread also until SIGINT or SIGTERM."""
        try:
            asyncio.run(self._run())
        finally:
            self.close()

    async def _run(self) -> None:
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            await self.application.hub.end()

    def stop(self) -> None:
        """Makes `run` return soon. May be called from any thread, or by a signal."""
        self._server.should_exit = True

    def close(self) -> None:
        """Stops listening."""
        self._listener.close()


class _Server(uvicorn.Server):
    def __init__(self, guard: Guard, web: WebServer) -> None:
        super().__init__(
            uvicorn.Config(
                guard,
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",  # the guard logs what concerns us
                access_log=False,
                proxy_headers=False,  # who asks is whoever has connected, whatever a header says
                server_header=False,
                date_header=False,
                backlog=CLIENTS,
                timeout_graceful_shutdown=_ENDS_WITHIN_S,
            )
        )
        self._web = web

    async def serve(self, sockets: list[Listener] | None = None) -> None:  # type: ignore[override]
        """As of uvicorn, with our own TLS."""
        self.config.load()
        self.config.ssl = self._web.context
        await super().serve(list(sockets or []))

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._web.admission.end_overdue()
        ends = await super().on_tick(counter)
        if ends:
            self._web.application.hub.close()
        return ends


def _tls(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a callback, OpenSSL would ask at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--tls-cert {certificate} and --tls-key {key} cannot be used: {error}",
            advice="Give PEM files: the certificate with its chain, and its key without a password.",
        ) from error
    return context
