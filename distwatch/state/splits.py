"""What the last calls of all_to_all gave to and took from each member, and the bytes of that ring."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

SPLIT_SLOTS = 8
SPLITS_MOST = 64
"""Members of a group whose lists are kept: of larger groups only the sums are."""
# number of the call · elements given · elements taken · elements of a row, of either · length of each list
_HEAD = struct.Struct("<QQQQQHH")
_NUMBER = struct.Struct("<Q")
_AGAIN = _HEAD.size + 2 * SPLITS_MOST * 4
SPLITS_SIZE = _AGAIN + _NUMBER.size
NOT_LISTED = 0xFFFF
Rows = Sequence[int]


class Splits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many elements an all_to_all gives to, and takes from, each member; no lists: equal parts."""

    given: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()
    given_total: int = 0
    taken_total: int = 0
    listed: bool = True
    """False: the group is too large for its lists to be kept."""

    def given_to(self, member: int, members: int) -> int | None:
        """The elements for that member of a group of so many; None where that is not known."""
        return self._part(self.given, self.given_total, member, members)

    def taken_from(self, member: int, members: int) -> int | None:
        """The elements that it expects from that member."""
        return self._part(self.taken, self.taken_total, member, members)

    def _part(self, parts: tuple[int, ...], total: int, member: int, members: int) -> int | None:
        if not self.listed or not 0 <= member < members:
            return None
        if not parts:
            return total // members
        return parts[member] if len(parts) == members else None


def write_splits(
    memory: Any,
    place: int,
    number: int,
    lists: tuple[Rows, Rows],
    totals: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    """Writes one slot of the ring; lists that are too long are left out.

    Args:
        lists: what is given to each member and taken from it, in rows.
        totals: the elements of all of it.
        rows: the elements of one row.
    """
    given, taken = lists
    lengths = len(given), len(taken)
    if max(lengths) > SPLITS_MOST:
        given, taken, lengths = (), (), (NOT_LISTED, NOT_LISTED)
    _NUMBER.pack_into(memory, place + _AGAIN, 0)
    _HEAD.pack_into(memory, place, number, *totals, *rows, *lengths)
    struct.pack_into(f"<{len(given) + len(taken)}I", memory, place + _HEAD.size, *given, *taken)
    _NUMBER.pack_into(memory, place + _AGAIN, number)


def decode_splits(ring: bytes) -> dict[int, Splits]:
    """By the number of the call; empty where an older version wrote no such ring. Never raises."""
    found: dict[int, Splits] = {}
    for place in range(0, len(ring) - SPLITS_SIZE + 1, SPLITS_SIZE):
        number, *told, given, taken = _HEAD.unpack_from(ring, place)
        given_total, taken_total, given_row, taken_row = told
        (again,) = _NUMBER.unpack_from(ring, place + _AGAIN)
        listed = given <= SPLITS_MOST and taken <= SPLITS_MOST
        if not number or number != again or not (listed or given == taken == NOT_LISTED):
            continue
        given, taken = (given, taken) if listed else (0, 0)
        values = struct.unpack_from(f"<{given + taken}I", ring, place + _HEAD.size)
        found[number] = Splits(
            given=tuple(one * given_row for one in values[:given]),
            taken=tuple(one * taken_row for one in values[given:]),
            given_total=given_total,
            taken_total=taken_total,
            listed=listed,
        )
    return found
