"""The arithmetic of parallel layouts: which sizes divide a world. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod


def data_size(world_size: int, sizes: Mapping[str, int], data: int | None = None) -> int:
    """How many replicas of the model the world holds.

    Args:
        sizes: of the axes that one replica is spread over, by name.
        data: what was asked for; None: whatever is left.

    Raises:
        ValueError: it does not divide; the text says which sizes would.
    """
    replica = prod(sizes.values())
    told = " × ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "1"
    if world_size % replica:
        raise ValueError(
            f"a world of {world_size} cannot be divided by {told} = {replica}"
            f"{_would_work(world_size, sizes)}"
        )
    left = world_size // replica
    if data is not None and data != left:
        raise ValueError(
            f"{told} × data {data} is {replica * data}, and the world has {world_size}"
        )
    return left


def _would_work(world_size: int, sizes: Mapping[str, int]) -> str:
    """Sizes of a single axis that would, the others as they are."""
    told = []
    for name, size in sizes.items():
        rest = prod(sizes.values()) // size
        if size > 1 and world_size % rest == 0:
            fitting = [n for n in range(1, world_size // rest + 1) if (world_size // rest) % n == 0]
            told.append(f"{name} of {', '.join(map(str, fitting))}")
    return f"; it would work with {' or '.join(told)}" if told else ""
