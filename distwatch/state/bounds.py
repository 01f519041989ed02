"""How large a number from outside may be.

A launcher's variable, a dump or another host can name 900,000,000 ranks in nine bytes. What goes
through all ranks of a world would take their memory: sizes are cut where they come in, and what was
cut is kept in words.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST_RANKS = 1 << 18
"""Ranks of a world, and of one list of ranks. The largest jobs of today have a third of it."""
MOST_LISTED = 1 << 21
"""Ranks in all lists of one event together, and in all groups that are kept of one process."""
LONG_LIST = 4096
"""Of shorter ones there may be thousands."""
MOST_DIGITS = 18
_LARGEST = 1e12
_SIZES = ("world_size", "local_world_size", "tasks", "size")

Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
"""Neither NaN nor infinite: both end whatever counts with them."""


class Bounded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Part of what says how large a world is: a size beyond MOST_RANKS is cut to it."""

    beyond: tuple[str, ...] = ()
    """The sizes that were cut, as they were said: `WORLD_SIZE=900000000`."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            said = getattr(self, name, None)
            if said is not None and not 0 <= said <= MOST_RANKS:
                self._cut(name, said)

    def _cut(self, name: str, said: int) -> None:
        beyond = (*self.beyond, f"{name.upper()}={said}")
        msgspec.structs.force_setattr(self, name, min(max(said, 0), MOST_RANKS))
        msgspec.structs.force_setattr(self, "beyond", beyond)


def whole_number(text: str | None) -> int | None:
    """The number that a text from outside is, of at most MOST_DIGITS digits; None where it is none."""
    digits = (text or "").strip()
    # `²` is a digit to str.isdigit, and int() refuses it, as it does thousands of digits.
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS
    return int(digits) if is_number else None
