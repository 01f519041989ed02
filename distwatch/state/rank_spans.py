"""Long lists of ranks, short on the wire: `(0, 10000, 1)` instead of ten thousand numbers.

Every rank of a job tells the members of its groups. Ten thousand ranks that tell ten thousand
members each would be 300 MB, and a hundred million objects for whoever reads them: here equal
lists are also one tuple in memory.
"""

from __future__ import annotations

from functools import lru_cache

from distwatch.state.bounds import LONG_LIST, MOST_LISTED, MOST_RANKS

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


class _Budget:
    """How many more ranks the spans of the event that is being read may stand for."""

    left = MOST_LISTED


def begin_event() -> None:
    """What is spent from now on is another event's."""
    _Budget.left = MOST_LISTED


def spend(ranks: int) -> None:
    """Counts what an event's spans stand for; raises ValueError where that is over MOST_LISTED."""
    _Budget.left -= ranks
    if _Budget.left < 0:
        raise ValueError(f"the event names more than {MOST_LISTED} ranks")


def unpack_ranks(spans: Spans) -> tuple[int, ...]:
    """What `pack_ranks` packed; equal spans give one and the same tuple.

    Raises:
        ValueError: they are no spans, stand for more than MOST_RANKS ranks, or for one beyond those.
    """
    return (_long if sum(spans[1::3]) > LONG_LIST else _short)(spans)


def _unpacked(spans: Spans) -> tuple[int, ...]:
    counts = spans[1::3]
    if len(spans) % 3 or min(counts, default=1) < 1 or sum(counts) > MOST_RANKS:
        raise ValueError("these are no spans of ranks")
    ranks: list[int] = []
    for first, count, step in zip(spans[::3], counts, spans[2::3], strict=True):
        last = first + (count - 1) * step
        if min(first, last) < 0 or max(first, last) >= MOST_RANKS:
            raise ValueError("these are spans of what is no rank")
        numbers = _numbers(max(first, last).bit_length())
        after = last + step
        several = slice(first, after if after >= 0 else None, step or None)
        ranks += numbers[several] if step else (first,) * count
    return tuple(ranks)


_short = lru_cache(maxsize=1024)(_unpacked)
_long = lru_cache(maxsize=64)(_unpacked)


@lru_cache
def _numbers(bits: int) -> tuple[int, ...]:
    """Each number once, for all lists: a number takes four times the room of a place in a list."""
    return tuple(range(1 << bits))
