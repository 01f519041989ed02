"""What every request passes through: its access, its deadline, and the headers of every answer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from distwatch.report.page_script import script_hash
from distwatch.web.access import Access
from distwatch.web.admission import CLIENTS, Address, Admission
from distwatch.web.answer import Answer, sentence
from distwatch.web.live_page import WEB

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("distwatch.web")
SENT_WITHIN_S = 20.0
"""The time limit for the client to take an answer, or one event of a stream."""
_SCRIPTS = f"'{script_hash('report.js')}' '{script_hash('live.js', WEB)}'"  # our own, and no other
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",  # one answer for each connection: its deadline is then that of the request
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    f"script-src {_SCRIPTS}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "distwatch",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_READS = ("GET", "HEAD")
# Of the schemes, a browser takes the one that it knows: it asks for a password, and that is the token.
_CHALLENGES = ("Bearer", 'Basic realm="distwatch: the token is the password", charset="UTF-8"')


class Guard:
    """Wraps the application: only what may be asked reaches it."""

    def __init__(self, inner: ASGIApp, access: Access, admission: Admission) -> None:
        self._inner = inner
        self._access = access
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        if scope["type"] != "http":
            return
        client = (str(scope["client"][0]), int(scope["client"][1]))
        if not self._admission.hear(client):
            return
        begun = False

        async def reply(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            with anyio.fail_after(SENT_WITHIN_S):
                await send(message)

        try:
            await (self._refusal(scope, client) or self._inner)(scope, receive, reply)
        except Exception as error:
            if begun:
                # Too late for another answer; and who does not read is hung up on.
                self._admission.shut(client)
                return
            log.warning("%s could not be shown", ascii(scope["path"]), exc_info=True)
            said = f"unexpected {type(error).__name__}; the server's log says more"
            await response_of(sentence(500, said))(scope, receive, reply)
        finally:
            self._admission.finish(client, SENT_WITHIN_S)

    def _refusal(self, scope: Scope, client: Address) -> Response | None:
        if refusal := self._access.refuses(Headers(scope=scope)):
            return response_of(refusal)
        if not self._admission.accept(client):
            return response_of(sentence(503, f"all {CLIENTS} places are taken: try again"))
        if scope["method"] not in _READS:
            return response_of(sentence(405, "this server is read-only: use GET or HEAD"))
        return None


def response_of(answer: Answer) -> Response:
    """An answer as Starlette sends it."""
    response = Response(answer.body, answer.status, {"Content-Type": answer.content_type})
    if answer.status == 401:
        for challenge in _CHALLENGES:
            response.headers.append("WWW-Authenticate", challenge)
    if answer.status == 405:
        response.headers["Allow"] = ", ".join(_READS)
    return response
