"""Who has come by a store's keys: of the world that is meant, and of no other."""

from __future__ import annotations

import pytest

from distwatch.probes.store_keys import Expected, arrived_ranks

FIRST = ["init/", "/default_pg/0//cpu//0/0", "/default_pg/0//cpu//0/2"]
SUBGROUPS = ["/default_pg/0//1//cpu//0/5", "/default_pg/0//6e2f//cpu//0/6", "/0//1//cpu//0/7"]


def word(attempt: int, worlds: int, tries: int, rank: int) -> str:
    return f"/distwatch/{attempt}/{worlds}/{tries}/rank/{rank}"


@pytest.mark.parametrize(
    ("keys", "expected", "arrived"),
    [
        (FIRST, Expected(), (0, 2)),
        (FIRST + SUBGROUPS, Expected(), (0, 2)),
        ([*FIRST, word(0, 0, 0, 1)], Expected(), (0, 1, 2)),
        ([word(0, 0, 0, 7), word(0, 0, 1, 3), "/distwatch/0/0/1/terms"], Expected(), (3,)),
        ([word(0, 0, 0, 7)], Expected(attempt=1, kept_store=True), ()),
        ([word(0, 0, 0, 7), word(1, 0, 0, 3)], Expected(attempt=1, kept_store=True), (3,)),
        (FIRST, Expected(kept_store=True), (0, 2)),
        (FIRST, Expected(attempt=1, kept_store=True), ()),
        (FIRST, Expected(attempt=1), (0, 2)),
        (FIRST, Expected(number=2), ()),
        (["/worker/attempt_0/default_pg/0//cpu//0/1"], Expected(kept_store=True), (1,)),
        (
            ["/worker/attempt_0/default_pg/0//cpu//0/1", "/worker/attempt_1/default_pg/0//cpu//0/4"],
            Expected(attempt=1, kept_store=True),
            (4,),
        ),
        (["/mine/0//cpu//0/1", *SUBGROUPS], Expected(own_store=True), (1,)),
        (["/0//cpu//0/1"], Expected(own_store=True), (1,)),
        (["/a/0//cpu//0/1", "/b/0//cpu//0/0"], Expected(own_store=True), ()),
        (["/mine/0//cpu//0/1"], Expected(), ()),
        (["/distwatch/0/0/1/torch/0//cpu//0/1"], Expected(own_store=True), ()),
    ],
    ids=[
        "gloo", "subgroups do not count", "with and without us", "the newest try",
        "an earlier attempt's words", "this attempt's words", "the first attempt of torchrun",
        "an earlier attempt's addresses", "a new store for each attempt", "a second world",
        "an older torchrun", "an older torchrun's newest attempt", "below the user's prefix",
        "a user's store", "two worlds in a user's store", "another's prefix", "our own torch keys",
    ],
)  # fmt: skip
def test_ranks_of_the_world_that_is_meant(
    keys: list[str], expected: Expected, arrived: tuple[int, ...]
) -> None:
    assert arrived_ranks(keys, expected)[0] == arrived


def test_why_nobody_is_named_is_said() -> None:
    assert arrived_ranks(FIRST, Expected()) == ((0, 2), "")
    assert "earlier world" in arrived_ranks(FIRST, Expected(number=2))[1]
    assert "earlier attempt" in arrived_ranks(FIRST, Expected(attempt=1, kept_store=True))[1]
