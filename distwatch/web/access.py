"""Who gets an answer: only this user on this machine, or whoever has the token; and from which pages."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from distwatch.errors import DistwatchError, UsageError
from distwatch.state.addresses import is_loopback
from distwatch.web.answer import Answer, sentence

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def listening_address(host: str, port: int, *, has_token: bool) -> tuple[socket.AddressFamily, str]:
    """The one address of a host's name.

    Raises:
        UsageError: other machines could connect, and no token keeps them out.
        DistwatchError: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise DistwatchError(f"{host!r} does not resolve: {error}") from error
    family, _, _, _, address = found[0]
    if not has_token and not is_loopback(str(address[0])):
        raise UsageError(
            f"{host or 'every address'} is reachable from other machines",
            advice="Give --token-file FILE (`(umask 077; openssl rand -hex 16 > FILE)` makes one), or leave "
            "--host at 127.0.0.1 and use a tunnel.",
        )
    return family, str(address[0])


class Access:
    """Decides on connections and requests.

    With a token, a request must carry it. Without one, the connection must come from a process of this
    user or root on this machine, and the request by a local name: a web page whose own name was pointed
    here (DNS rebinding) comes by that name. In both cases no other site's page may ask in a browser.
    """

    def __init__(self, token: bytes | None, host: str) -> None:
        self._token = token
        self._names = LOCAL_NAMES | {host.lower()}

    @property
    def asks_for_a_token(self) -> bool:
        return self._token is not None

    def knows(self, owner: int | None) -> bool:
        """Whether a connection is one of those who may ask, before it has said anything.

        Args:
            owner: the uid of the process at its other end, where it is one of this machine.
        """
        return self._token is None and owner in (0, os.getuid())

    def refuses(self, headers: Mapping[str, str]) -> Answer | None:
        """The answer to a request that is refused; None: it is not refused."""
        if self._token is not None and not self._has_token(headers.get("authorization", "")):
            return sentence(401, "send the token: `Authorization: Bearer …`, or as the password")
        if self._token is None and _name(headers.get("host", "")) not in self._names:
            return sentence(421, f"use a local name: {', '.join(sorted(LOCAL_NAMES))}")
        if _is_of_another_site(headers):
            return sentence(403, "another site's page may not read this")
        return None

    def _has_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() == "basic":  # all that a browser can send by itself; any user name
            given = _password(given)
        # Compared even where the scheme is wrong: the time must not reveal which part was wrong.
        right = hmac.compare_digest(given.encode("utf-8", "replace"), self._token or b"")
        return right and scheme.lower() in ("bearer", "basic")


def _password(credentials: str) -> str:
    try:
        plain = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return plain.partition(":")[2]


def _is_of_another_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that the page of another origin asks; to follow a link here is allowed."""
    origin = headers.get("origin")
    if origin is not None and _place(origin) != headers.get("host", "").lower():
        return True
    follows_link = headers.get("sec-fetch-mode") == "navigate" and (
        headers.get("sec-fetch-dest") == "document"
    )
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not follows_link


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A Host header without its port, which a tunnel may have changed."""
    host = host.strip().lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host
