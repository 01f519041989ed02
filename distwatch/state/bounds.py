"""Upper bounds on numbers from outside.

A launcher's variable, a dump or another host can name 900,000,000 ranks in nine bytes, and code that
loops over all ranks of a world would run out of memory. So sizes are cut where they are read, and the
original size is kept as text.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated

import msgspec

MOST_RANKS = 1 << 18
"""Ranks of a world, and of one list of ranks. The largest jobs today have a third as many."""
MOST_LISTED = 1 << 21
"""Ranks in all lists of one event together, and in all groups kept for one process."""
LONG_LIST = 4096
"""Of lists up to this length there may be thousands."""
MOST_DIGITS = 18
_LARGEST = 1e12
_SIZES = ("world_size", "local_world_size", "tasks", "size")

Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
"""Neither NaN nor infinite, which would break every calculation with it."""


class Bounded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A part of an event that gives a world's size: a size above MOST_RANKS is cut to it."""

    beyond: tuple[str, ...] = ()
    """The sizes that were cut, in their original form: `WORLD_SIZE=900000000`."""

    def __post_init__(self) -> None:
        for name in _sizes_of(type(self)):
            said = getattr(self, name)
            if said is not None and not 0 <= said <= MOST_RANKS:
                self._cut(name, said)

    def _cut(self, name: str, said: int) -> None:
        beyond = (*self.beyond, f"{name.upper()}={said}")
        msgspec.structs.force_setattr(self, name, min(max(said, 0), MOST_RANKS))
        msgspec.structs.force_setattr(self, "beyond", beyond)


@cache
def _sizes_of(kind: type[Bounded]) -> tuple[str, ...]:
    return tuple(name for name in _SIZES if name in kind.__struct_fields__)


def whole_number(said: object) -> int | None:
    """A number from outside, not negative: an int, or a text of at most MOST_DIGITS digits; else None."""
    if isinstance(said, int):
        return said if said >= 0 else None
    digits = said.strip() if isinstance(said, str) else ""
    # str.isdigit accepts `²`, which int() rejects; int() also rejects thousands of digits.
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS
    return int(digits) if is_number else None


def first_number(*said: object) -> int | None:
    """The first of these that is a number, as `whole_number` reads it."""
    return next((number for one in said if (number := whole_number(one)) is not None), None)
