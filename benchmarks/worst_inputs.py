"""Milliseconds for 1 MB of the texts that are worst for a redactor, and for what makes text visible.

The goal is under 20 ms: in the job it runs where a process dies and its peers wait.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

from distwatch.redaction import redact_text
from distwatch.visible_text import visible

SIZE = 1 << 20
GOAL_MS = 20.0
PIECES = {
    "one letter": "a",
    "0-1-2-…": "0-1-2-",
    "x-": "x-",
    "words": "the loss is nan at step 12 ",
    "assignments": "token=abc password: 'x y' ",
    "keys without values": "api_key=",
    "quotes that never close": "token='",
    "urls with users": "https://user:pa/ss@host/path ",
    "urls that never end": "https://",
    "@": "@",
    "bearer": "Authorization: Bearer abc.def ",
    "flags": "--password x --header 'Authorization: y' ",
    "long identifiers": "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6 ",
    "one long identifier": "A1b2C3d4",
    "base64 with dots": "eyJhbGciOi.",
    "blanks": " ",
    "newlines": "\n",
    "escapes": "\x1b[31m\x07\u202e",
    "braces": "{'a': {'token': '",
    "backslashes": "\\",
}


def spent_ms(work: Callable[[str], object], text: str, rounds: int) -> float:
    """The median."""
    spent = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work(text)
        spent.append((time.perf_counter() - begin) * 1e3)
    return median(spent)


def main() -> None:
    """Prints a line a text; exit code 1 where the redactor misses the goal."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    rounds, late = options.parse_args().rounds, 0
    for name, piece in PIECES.items():
        text = (piece * (SIZE // len(piece) + 1))[:SIZE]
        redacting = spent_ms(lambda said: redact_text(said, SIZE), text, rounds)
        showing = spent_ms(visible, text, rounds)
        late += redacting > GOAL_MS
        print(f"{redacting:8.1f} ms redacted  {showing:8.1f} ms made visible  {name}")
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
