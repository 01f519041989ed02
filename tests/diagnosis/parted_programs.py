"""Reads `parted_programs.txt`: programs whose ranks part, each with what separates them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_HEAD = re.compile(r"^=== (\w+) (\w+) \| ([\w ]+) \| ([\w ]+) \| (\d)$", re.M)


class Program(NamedTuple):
    """One program. `kinds` and `about`: words of which one has to be said of it."""

    series: str
    name: str
    text: str
    kinds: list[str]
    about: list[str]
    world: int


def read_programs() -> list[Program]:
    """All of them, in the order of the file."""
    text = Path(__file__).with_suffix(".txt").read_text()
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [
        Program(head[1], head[2], text[head.end() : end], head[3].split(), head[4].split(), int(head[5]))
        for head, end in zip(heads, ends, strict=True)
    ]  # fmt: skip
