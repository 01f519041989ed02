"""The only place where foreign text becomes text for a terminal or a page.

The name of a function, a file, a group or a host, or an exception may contain anything: sequences that
clear or retitle a terminal or write to its clipboard, and characters that reverse the text after them.
Each of them is shown as an escape such as `\\x1b`.

Imports only re: ranks use it, too.
"""

from __future__ import annotations

import re
import sys

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f"  # the direction of text
    "\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # other line ends, and invisible characters
    "\ud800-\udfff]"  # lone surrogates, which no stream accepts
)


def visible(text: str) -> str:
    """Text of any number of lines that cannot control the terminal or page that shows it.

    In a JSON document, a parser turns the escapes back into the original characters.
    """
    return text if text.isprintable() else _STEERING.sub(_escape, text)


def visible_line(text: str) -> str:
    """Like `visible`, but on one line."""
    return text if text.isprintable() else visible(text.replace("\n", " ").replace("\t", " "))


def shorten(text: str, most: int) -> str:
    """The text in at most that many characters; `…` stands where it is cut."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def say(text: str) -> None:
    """Prints a message to the job process's standard error."""
    print(f"distwatch: {visible(text)}", file=sys.stderr, flush=True)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return f"\\x{code:02x}"
    if code > 0xFFFF:  # as JSON writes it
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"
