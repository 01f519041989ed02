"""What a client gets."""

from __future__ import annotations

import msgspec

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    content_type: str
    body: bytes


def sentence(status: int, text: str) -> Answer:
    """An answer for people."""
    return Answer(status, TEXT, f"distwatch: {text}\n".encode("utf-8", "replace"))


def document(content: object) -> Answer:
    """An answer for programs."""
    return Answer(200, JSON, msgspec.json.encode(content) + b"\n")
