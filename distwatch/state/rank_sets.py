"""Sets of ranks as text: `0-2,5`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

_Value = TypeVar("_Value")
_INFLECTED = re.compile(r"\[([^][|]*)\|([^][|]*)\]")


def format_ranks(ranks: Iterable[int]) -> str:
    """`(0, 1, 2, 5)` → `0-2,5`; '' for none."""
    runs: list[list[int]] = []
    for member in sorted(set(ranks)):
        if runs and member == runs[-1][1] + 1:
            runs[-1][1] = member
        else:
            runs.append([member, member])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def name_ranks(ranks: Iterable[int], one: str = "", several: str = "") -> str:
    """`rank 2`, `ranks 0-1,3`; with a verb that agrees: `rank 2 waits`, `ranks 0-1,3 wait`."""
    members = sorted(set(ranks))
    return f"{agree(members, 'rank', 'ranks')} {format_ranks(members)} {agree(members, one, several)}".rstrip()


def ranks_by(values: Mapping[int, _Value]) -> dict[_Value, list[int]]:
    """The ranks that have each value: `{0: "a", 1: "b", 2: "a"}` → `{"a": [0, 2], "b": [1]}`."""
    found: dict[_Value, list[int]] = {}
    for rank, value in values.items():
        found.setdefault(value, []).append(rank)
    return found


def name_by(values: Mapping[int, str], one: str = ": ", several: str = ": ") -> list[str]:
    """Each value once, after its ranks and a verb that agrees: `ranks 0,2: a`, `rank 1 has b`."""
    named = ranks_by(values).items()
    return [f"{name_ranks(ranks)}{agree(ranks, one, several)}{value}" for value, ranks in named]


def agree(of: Iterable[object], one: str, several: str) -> str:
    """The word whose number agrees: `agree(ranks, "it", "them")`."""
    return one if len(set(of)) == 1 else several


def inflect(text: str, of: Iterable[object]) -> str:
    """A text with its `[that rank|those ranks]` replaced by what agrees in number."""
    number = 1 if len(set(of)) == 1 else 2
    return _INFLECTED.sub(lambda match: match[number], text)
