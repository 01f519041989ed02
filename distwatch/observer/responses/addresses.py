"""DISTWATCH_NOTIFY: a command, or URLs of web hooks and of services."""

from __future__ import annotations

import importlib.util
import re
import shlex
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from distwatch.redaction import HIDDEN
from distwatch.visible_text import visible_line

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
ADDRESSES_MOST = 16
NO_APPRISE = (
    "needs the apprise package, which is not installed: pip install 'distwatch[notify]' in the "
    "environment of the job"
)


class Address(NamedTuple):
    """Where a notice goes. `text` may hold secrets: it is never shown, journaled or put into an argv."""

    kind: Literal["command", "web", "service"]
    text: str

    @property
    def shown(self) -> str:
        """Its name for people: a command's program, or scheme and host of a URL."""
        if self.kind == "command":
            return f"the command {visible_line(_program(self.text))[:80]}"
        scheme = self.text.partition("://")[0].lower()
        if self.kind == "service":  # what looks like its host may be a token
            return f"{scheme}://{HIDDEN}"
        try:
            url = urlsplit(self.text)
            port = f":{url.port}" if url.port else ""
            return visible_line(f"{scheme}://{url.hostname or '?'}{port}")[:120]
        except ValueError:
            return f"{scheme}://{HIDDEN}"

    @property
    def complaint(self) -> str:
        """Why nothing can be sent there from here; '' where it can."""
        if self.kind == "service" and importlib.util.find_spec("apprise") is None:
            return f"{self.shown} {NO_APPRISE}"
        return ""


def addresses_in(setting: str) -> tuple[Address, ...]:
    """The addresses of the setting: one command, or one URL or several with spaces between them."""
    words = setting.split()
    if not words:
        return ()
    if not all(_URL.fullmatch(word) for word in words):
        return (Address("command", setting.strip()),)
    return tuple(
        Address("web" if word.lower().startswith(("http://", "https://")) else "service", word)
        for word in words[:ADDRESSES_MOST]
    )


def _program(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    # `TOKEN=… curl`: a command may begin with variables.
    return next((w.rpartition("/")[2] for w in words if "=" not in w), "?")
