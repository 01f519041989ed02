"""Sets of ranks as people write them: `0-2,5`."""

from __future__ import annotations

from collections.abc import Iterable


def format_ranks(ranks: Iterable[int]) -> str:
    """`(0, 1, 2, 5)` → `0-2,5`; '' for none."""
    runs: list[list[int]] = []
    for member in sorted(set(ranks)):
        if runs and member == runs[-1][1] + 1:
            runs[-1][1] = member
        else:
            runs.append([member, member])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def name_ranks(ranks: Iterable[int]) -> str:
    """`rank 2`, `ranks 0-1,3`."""
    members = sorted(set(ranks))
    return f"rank{'s' if len(members) != 1 else ''} {format_ranks(members)}"


def agree(with_: Iterable[object], one: str, several: str) -> str:
    """The word that agrees in number: `agree(ranks, "waits", "wait")`, `agree(ranks, "it", "them")`."""
    return one if len(set(with_)) == 1 else several
