"""Long lists of ranks, short on the wire: `(0, 10000, 1)` instead of ten thousand numbers.

Every rank of a job tells the members of its groups. Ten thousand ranks that tell ten thousand
members each would be 300 MB, and a hundred million objects for whoever reads them: here equal
lists are also one tuple in memory.
"""

from __future__ import annotations

from functools import lru_cache

from distwatch.state.bounds import MOST_RANKS

SHORT = 32
"""Lists up to here are written out."""

Spans = tuple[int, ...]
"""First rank, count and step, again and again."""


@lru_cache(maxsize=1024)
def pack_ranks(ranks: tuple[int, ...]) -> Spans:
    """The same ranks in the same order as spans; () where those would be no shorter."""
    if len(ranks) <= SHORT:
        return ()
    spans: list[int] = []
    at = 0
    while at < len(ranks):
        first, count = ranks[at], 1
        step = ranks[at + 1] - first if at + 1 < len(ranks) else 1
        while at + count < len(ranks) and ranks[at + count] == first + count * step:
            count += 1
        spans += (first, count, step)
        at += count
    return tuple(spans) if len(spans) < len(ranks) // 2 else ()


@lru_cache(maxsize=1024)
def unpack_ranks(spans: Spans) -> tuple[int, ...]:
    """What `pack_ranks` packed; equal spans give one and the same tuple.

    Raises:
        ValueError: they are no spans, or stand for more than MOST_RANKS.
    """
    counts = spans[1::3]
    if len(spans) % 3 or min(counts, default=1) < 1 or sum(counts) > MOST_RANKS:
        raise ValueError("these are no spans of ranks")
    return tuple(
        first + n * step
        for first, count, step in zip(spans[::3], counts, spans[2::3], strict=True)
        for n in range(count)
    )
