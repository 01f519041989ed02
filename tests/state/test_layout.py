"""Sizes that divide a world, and sizes that would."""

from __future__ import annotations

import re
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.state.layout import data_size

sizes = st.fixed_dictionaries(
    {name: st.integers(1, 6) for name in ("tensor", "pipeline", "context")}
)


@given(st.integers(1, 96), sizes)
def test_what_is_left_fills_the_world_or_the_error_names_sizes_that_do(
    world: int, asked: dict[str, int]
) -> None:
    if world % prod(asked.values()) == 0:
        assert data_size(world, asked) * prod(asked.values()) == world
        return
    with pytest.raises(ValueError, match="cannot be divided") as caught:
        data_size(world, asked)
    for name, values in re.findall(r"(tensor|pipeline|context) of ([\d, ]+)", str(caught.value)):
        for value in map(int, values.split(",")):
            assert data_size(world, {**asked, name: value}) > 0


def test_a_data_size_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="tensor 2 × data 3 is 6, and the world has 8"):
        data_size(8, {"tensor": 2}, 3)


def test_the_error_says_what_would_work() -> None:
    with pytest.raises(ValueError, match="it would work with tensor of 1, 2, 4, 8"):
        data_size(8, {"tensor": 3})
