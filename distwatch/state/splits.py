"""What the last calls of all_to_all gave to and took from each member, and the bytes of that ring."""

from __future__ import annotations

import struct

import msgspec

SPLIT_SLOTS = 8
SPLITS_MOST = 256
"""Members of a group whose lists are kept: of larger groups only the sums are."""
# number of the call · elements given · elements taken · length of each list, or NOT_LISTED
_HEAD = struct.Struct("<QQQHH")
_NUMBER = struct.Struct("<Q")
_AGAIN = _HEAD.size + 2 * SPLITS_MOST * 4
SPLITS_SIZE = _AGAIN + _NUMBER.size
NOT_LISTED = 0xFFFF


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


def encode_splits(number: int, splits: Splits) -> bytes:
    """One slot of the ring; lists that are too long are left out."""
    lists = (splits.given, splits.taken)
    whole = all(len(one) <= SPLITS_MOST and max(one, default=0) < 1 << 32 for one in lists)
    lengths = [len(one) if whole else NOT_LISTED for one in lists]
    head = _HEAD.pack(number, splits.given_total, splits.taken_total, *lengths)
    values = [*splits.given, *splits.taken] if whole else []
    body = head + struct.pack(f"<{len(values)}I", *values)
    return body.ljust(_AGAIN, b"\0") + _NUMBER.pack(number)


def decode_splits(ring: bytes) -> dict[int, Splits]:
    """By the number of the call; empty where an older version wrote no such ring. Never raises."""
    found: dict[int, Splits] = {}
    for place in range(0, len(ring) - SPLITS_SIZE + 1, SPLITS_SIZE):
        number, given_total, taken_total, given, taken = _HEAD.unpack_from(ring, place)
        (again,) = _NUMBER.unpack_from(ring, place + _AGAIN)
        listed = given <= SPLITS_MOST and taken <= SPLITS_MOST
        if not number or number != again or not (listed or given == taken == NOT_LISTED):
            continue
        given, taken = (given, taken) if listed else (0, 0)
        values = struct.unpack_from(f"<{given + taken}I", ring, place + _HEAD.size)
        found[number] = Splits(
            given=values[:given],
            taken=values[given:],
            given_total=given_total,
            taken_total=taken_total,
            listed=listed,
        )
    return found
