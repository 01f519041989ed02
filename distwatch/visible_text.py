"""The one place where text that others have made becomes text for a terminal or a page.

A function's, a file's or a group's name, an exception, a host name may hold whatever its maker
likes: sequences that retitle or clear a terminal or write to its clipboard, and letters that turn
the direction of what follows. Each of them is shown as what it is, `\\x1b`.

Imports re only: ranks say things, too.
"""

from __future__ import annotations

import re
import sys

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f"  # the direction of text
    "\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # other line ends, what is not seen at all
    "\ud800-\udfff]"  # halves of letters, which no stream takes
)


def visible(text: str) -> str:
    """Text of any number of lines that cannot steer what shows it.

    Inside a JSON document the escapes mean to a parser what stood there: it has no controls but
    newlines of its own.
    """
    return text if text.isprintable() else _STEERING.sub(_escape, text)


def visible_line(text: str) -> str:
    """The same on one line."""
    return text if text.isprintable() else visible(text.replace("\n", " ").replace("\t", " "))


def shorten(text: str, most: int) -> str:
    """The text in at most that many characters; `…` stands where it is cut."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def say(text: str) -> None:
    """A word of ours on the standard error of a job's process."""
    print(f"distwatch: {visible(text)}", file=sys.stderr, flush=True)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return f"\\x{code:02x}"
    if code > 0xFFFF:  # as JSON writes it
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"
