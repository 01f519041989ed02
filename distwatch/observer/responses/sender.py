"""A process that sends one notice to one URL and ends: what a service's library does stays in it."""

from __future__ import annotations

import base64
import logging
import sys
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from distwatch import __version__

TRY_LATER = 75
"""The exit code after which another try may help."""
FINAL = 1
_AGAIN = (408, 425, 429)


class Asked(msgspec.Struct):
    url: str
    title: str
    text: str
    body: str = ""
    """JSON for a web hook; '' for a service."""
    key: str = ""
    within_s: float = 20.0


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """A report is sent to the address that its user named, and to no other."""


def main() -> int:
    """Sends what stdin says; the exit code is 0, TRY_LATER or FINAL, and the reason is on stderr."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    code, why = post(asked) if asked.body else notify(asked)
    if why:
        print(why, file=sys.stderr)
    return code


def post(asked: Asked) -> tuple[int, str]:
    """POSTs the JSON. A user and password in the URL become a header."""
    try:
        url, headers = _without_user(asked.url)
        headers |= {
            "Content-Type": "application/json",
            "User-Agent": f"distwatch/{__version__}",
            "Idempotency-Key": asked.key.encode("ascii", "replace").decode(),
        }
        request = urllib.request.Request(url, asked.body.encode(), headers, method="POST")
    except ValueError as error:
        return FINAL, f"the URL is not valid: {type(error).__name__}"
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=asked.within_s):
            return 0, ""
    except urllib.error.HTTPError as error:
        later = error.code >= 500 or error.code in _AGAIN
        return (TRY_LATER if later else FINAL), f"it answered {error.code} {error.reason}"
    except OSError as error:
        reason = getattr(error, "reason", error)
        return TRY_LATER, str(getattr(reason, "strerror", None) or reason)
    except ValueError as error:  # http.client's errors are these, or OSError
        return FINAL, f"{type(error).__name__}"


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("no host")
    place = parts.netloc.rpartition("@")[2]
    headers: dict[str, str] = {}
    if parts.username:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    return urlunsplit((parts.scheme, place, parts.path, parts.query, "")), headers


def notify(asked: Asked) -> tuple[int, str]:
    """Sends the text by Apprise, which knows more than a hundred services."""
    import apprise

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("apprise")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    service = apprise.Apprise()
    if not service.add(asked.url):
        return (
            FINAL,
            "Apprise does not know such an address; https://github.com/caronc/apprise lists them",
        )
    if service.notify(title=asked.title, body=asked.text):
        return 0, ""
    return TRY_LATER, said[-1] if said else "Apprise could not deliver it"
