"""Takes secrets out of Python source and leaves it Python: they stand in string literals and comments."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator

from distwatch.redaction import HIDDEN, redact_text

_OPENING = re.compile(r"[A-Za-z]{0,3}(\"\"\"|'''|\"|')")
_NAMED = re.compile(r"([\w-]{1,80})[\"']?\]?\s*(?:={1,2}|:=?|:\s*[\w\[\], .|]{1,40}=|,)\s*\(?\s*$")
"""What a literal is given to: a name, a keyword, a key of a dict or of a subscript, an option before it."""


def redact_source(text: str) -> str:
    """The same lines; what looks secret in a literal or comment is replaced, and code stays as it is.

    Raises:
        ValueError: it cannot be split into Python's tokens.
    """
    lines = text.splitlines(keepends=True)
    for (row, column), (end_row, end_column), hidden in reversed(list(_secrets(text, lines))):
        first, last = lines[row - 1][:column], lines[end_row - 1][end_column:]
        lines[row - 1 : end_row] = (first + hidden + last).splitlines(keepends=True)
    return "".join(lines)


_Place = tuple[int, int]


def _secrets(text: str, lines: list[str]) -> Iterator[tuple[_Place, _Place, str]]:
    """Where a token begins and ends that is to be replaced, and by what; it has as many lines."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError, RecursionError) as error:
        raise ValueError(f"not split into tokens: {type(error).__name__}") from None
    for token in tokens:
        if token.type not in kinds:
            continue
        before = lines[token.start[0] - 1][: token.start[1]]
        hidden = _hidden(token.string, before)
        if hidden != token.string:
            yield token.start, token.end, hidden


def _hidden(literal: str, before: str) -> str:
    opening = _OPENING.match(literal)
    named = _NAMED.search(before[-160:]) if opening else None
    if opening and named and "\n" not in literal:
        said = f"{named[1]}={literal[opening.start(1) :]}"
        if redact_text(said) != said:
            return f"{opening[0]}{HIDDEN}{opening[1]}"
    # Line by line: a long literal is not cut, and keeps its number of lines.
    return "\n".join(_line(one) for one in literal.split("\n"))


def _line(text: str) -> str:
    redacted = redact_text(text)
    if redacted == text:
        return text
    opening = _OPENING.match(text)
    closing = opening[1] if opening and text.endswith(opening[1]) else ""
    if opening and closing and len(text) >= len(opening[0]) + len(closing):
        body = redact_text(text[len(opening[0]) : -len(closing)])
        return f"{opening[0]}{body}{closing}"
    return redacted
