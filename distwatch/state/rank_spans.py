"""Long lists of ranks, short on the wire: `(0, 10000, 1)` instead of ten thousand numbers.

Every rank of a job reports the members of its groups. Ten thousand ranks with ten thousand members
each would send 300 MB, and give the reader a hundred million objects. So equal lists also share one
tuple in memory.
"""

from __future__ import annotations

from functools import lru_cache

from distwatch.state.bounds import LONG_LIST, MOST_LISTED, MOST_RANKS

SHORT = 32
"""Lists up to this length are written in full."""

Spans = tuple[int, ...]
"""First rank, count and step, repeated."""


@lru_cache(maxsize=1024)
def pack_ranks(ranks: tuple[int, ...]) -> Spans:
    """The same ranks in the same order as spans; () where spans would not be shorter."""
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
    """How many more ranks the current event's spans may contain."""

    left = MOST_LISTED


def begin_event(most: int = MOST_LISTED) -> None:
    """Starts the budget of another event, or of whatever else may hold `most` ranks."""
    _Budget.left = most


def spend(ranks: int) -> None:
    """Counts the ranks in an event's spans; raises ValueError above MOST_LISTED."""
    _Budget.left -= ranks
    if _Budget.left < 0:
        raise ValueError(f"the event names more than {MOST_LISTED} ranks")


def unpack_ranks(spans: Spans) -> tuple[int, ...]:
    """Reverses `pack_ranks`; equal spans give the same tuple object.

    Raises:
        ValueError: they are not spans, or contain more than MOST_RANKS ranks or a rank that large.
    """
    return (_long if sum(spans[1::3]) > LONG_LIST else _short)(spans)


def _unpacked(spans: Spans) -> tuple[int, ...]:
    counts = spans[1::3]
    if len(spans) % 3 or min(counts, default=1) < 1 or sum(counts) > MOST_RANKS:
        raise ValueError("not a list of rank spans")
    ranks: list[int] = []
    for first, count, step in zip(spans[::3], counts, spans[2::3], strict=True):
        last = first + (count - 1) * step
        if min(first, last) < 0 or max(first, last) >= MOST_RANKS:
            raise ValueError("rank spans with a number that is not a rank")
        numbers = _numbers(max(first, last).bit_length())
        after = last + step
        several = slice(first, after if after >= 0 else None, step or None)
        ranks += numbers[several] if step else (first,) * count
    return tuple(ranks)


_short = lru_cache(maxsize=1024)(_unpacked)
_long = lru_cache(maxsize=64)(_unpacked)


@lru_cache
def _numbers(bits: int) -> tuple[int, ...]:
    """Each number once, shared by all lists: a number takes four times the memory of a list entry."""
    return tuple(range(1 << bits))
