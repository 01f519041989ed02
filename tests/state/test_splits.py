"""The ring of what all_to_all gives and takes, as bytes in the pulse file."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.agent.pulse import OperationsRing
from distwatch.state.pulse import FILE_SIZE, SPLITS_OFFSET, decode_operations
from distwatch.state.splits import (
    SPLIT_SLOTS,
    SPLITS_MOST,
    SPLITS_SIZE,
    Rows,
    Splits,
    decode_splits,
    write_splits,
)

sizes = st.lists(st.integers(0, (1 << 32) - 1), max_size=SPLITS_MOST).map(tuple)


def slot_of(number: int, given: Rows, taken: Rows, rows: tuple[int, int] = (1, 1)) -> bytes:
    slot = bytearray(SPLITS_SIZE)
    totals = sum(given) * rows[0], sum(taken) * rows[1]
    write_splits(slot, 0, number, (given, taken), totals, rows)
    return bytes(slot)


@given(sizes, sizes, st.integers(1, 1 << 60))
def test_a_slot_is_read_as_it_was_written(
    gives: tuple[int, ...], takes: tuple[int, ...], number: int
) -> None:
    slot = slot_of(number, gives, takes)
    told = Splits(given=gives, taken=takes, given_total=sum(gives), taken_total=sum(takes))
    assert decode_splits(slot) == {number: told}
    assert decode_splits(slot[:-8] + bytes(8)) == {}, "torn"


def test_rows_are_read_as_elements() -> None:
    (seen,) = decode_splits(slot_of(1, [3, 1], [2, 2], (16, 8))).values()
    assert (seen.given, seen.taken, seen.given_total) == ((48, 16), (16, 16), 64)


@given(st.binary(min_size=SPLITS_SIZE, max_size=2 * SPLITS_SIZE))
def test_garbage_is_never_an_exception(garbage: bytes) -> None:
    decode_splits(garbage)


def test_lists_of_very_large_groups_are_left_out_and_their_sums_stay() -> None:
    parts = (1,) * (SPLITS_MOST + 1)
    (seen,) = decode_splits(slot_of(5, parts, ())).values()
    assert (seen.given, seen.given_total, seen.listed) == ((), SPLITS_MOST + 1, False)
    assert seen.given_to(0, len(parts)) is None


def test_parts_by_list_or_equal() -> None:
    splits = Splits(given=(3, 5), given_total=8, taken_total=8)
    assert [splits.given_to(n, 2) for n in (0, 1, 2)] == [3, 5, None]
    assert [splits.taken_from(n, 4) for n in (0, 3)] == [2, 2]


def test_the_newest_calls_have_their_splits() -> None:
    memory = bytearray(FILE_SIZE)
    ring = OperationsRing(memory)
    op, group = ring.name("alltoall_base"), ring.name("0")
    for call in range(SPLIT_SLOTS + 2):
        number = ring.enter(5, op, group, call, 0, 8, 0, -1)
        ring.note_splits(number, ([call], ()), (call, 0), (1, 1))
    seen = decode_operations(bytes(memory))
    assert [one.splits is None for one in seen] == [True, True] + [False] * SPLIT_SLOTS
    assert [one.splits.given for one in seen if one.splits] == [(n,) for n in range(2, 10)]
    older = decode_operations(bytes(memory[:SPLITS_OFFSET]))
    assert [one.seq for one in older] == list(range(SPLIT_SLOTS + 2)), (
        "of a version without that ring"
    )


@pytest.mark.parametrize("refused", [[-1, 2], [1 << 40], ["a"]])
def test_of_lists_that_nobody_can_mean_nothing_is_noted(refused: Any) -> None:
    slot = bytearray(SPLITS_SIZE)
    write_splits(slot, 0, 7, ([1], [1]), (1, 1), (1, 1))
    with pytest.raises(struct.error):
        write_splits(slot, 0, 8, (refused, ()), (1, 0), (1, 1))
    assert decode_splits(bytes(slot)) == {}
