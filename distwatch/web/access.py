"""Who gets an answer: only this user on this machine, or whoever has the token."""

from __future__ import annotations

import hmac
import os
import socket
from email.message import Message

from distwatch.errors import DistwatchError, UsageError
from distwatch.probes.connections import owner_of_peer
from distwatch.state.addresses import is_loopback
from distwatch.web.pages import Answer, sentence

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
    """Decides on requests.

    With a token, a request must carry it. Without one, the request must come from a process of this
    user or root on this machine, and by a local name: a web page whose own name was pointed here (DNS
    rebinding) comes by that name.
    """

    def __init__(self, token: bytes | None, host: str) -> None:
        self._token = token
        self._names = LOCAL_NAMES | {host.lower()}

    def knows(self, owner: int | None) -> bool:
        """Whether a connection is one of those who may ask, before it has said anything.

        Args:
            owner: the uid of the process at its other end, where it is one of this machine.
        """
        return self._token is None and owner in (0, os.getuid())

    def refuses(
        self, headers: Message, client: tuple[str, int], here: tuple[str, int]
    ) -> Answer | None:
        """The answer to a request that is refused; None: it is not refused.

        Args:
            client, here: the connection's two ends, as address and port.
        """
        if self._token is not None:
            scheme, _, given = headers.get("Authorization", "").partition(" ")
            # Compared even where the scheme is wrong: the time must not reveal which part was wrong.
            right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
            if not right or scheme.lower() != "bearer":
                return sentence(401, "send the token: `Authorization: Bearer …`")
            return None
        if _name(headers.get("Host", "")) not in self._names:
            return sentence(421, f"use a local name: {', '.join(sorted(LOCAL_NAMES))}")
        if not self.knows(owner_of_peer(client, here)):
            return sentence(
                403, "without a token, only the user who runs this server gets an answer"
            )
        return None


def _name(host: str) -> str:
    """A Host header without its port, which a tunnel may have changed."""
    host = host.strip().lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host
