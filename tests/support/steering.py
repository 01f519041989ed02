"""Recorded runs whose names and texts steer a terminal: titles, the clipboard, the direction of text."""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec

STEERS = "\x1b]0;owned\x07\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b[8m\x9b31m\x7f\r\u202e\u2066\u2028"
SHOWN = "\\x1b]0;owned\\x07"
"""How its beginning is to be shown."""
_TEXTS = set(
    "function file message traceback type_name label error reason why text summary advice cwd "
    "pg_desc pg_name axis command title path what detail checkpoint python offload_folder".split()
)
_LAWFUL = "\n\t\u200b"
"""A zero-width space keeps Markdown from mentioning somebody."""


def steering(text: str) -> list[str]:
    """The characters of a text that no terminal or page should get."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in kinds and c not in _LAWFUL]


def steered(value: Any, host: str, name: str = "") -> Any:
    """An event, a header or a part of one, with such texts in all that a job chooses freely."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value)
        changed = {key: steered(one, host, key) for key, one in fields.items()}
        return msgspec.structs.replace(value, **changed)
    if isinstance(value, dict):
        return {steered(key, host): steered(one, host, name) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(steered(one, host, name) for one in value)
    if isinstance(value, str):
        value = value.replace(host, f"{host}{STEERS}")
        return f"{value}{STEERS}" if name in _TEXTS and value else value
    return value
