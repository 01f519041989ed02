"""Very many leaves that send at once do not keep the loop from its clock, or a leaf from a sign of life."""

from __future__ import annotations

import asyncio

import pytest

from distwatch.observer.link import turns as module
from distwatch.observer.link.turns import Turns


async def order_of(count: int) -> list[str]:
    """What was done in which order, where so many have work and a timer is due at once."""
    turns, done = Turns(), list[str]()
    asyncio.get_running_loop().call_later(0, done.append, "timer")

    async def work(number: int) -> None:
        await turns.begin()
        done.append(f"work {number}")

    await asyncio.gather(*(work(number) for number in range(count)))
    return done


async def test_once_a_slice_is_used_up_the_loop_does_what_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLICE_S", -1.0)  # each piece of work uses its slice up
    done = await order_of(4)
    assert done[-1] != "timer"
    assert [one for one in done if one != "timer"] == [f"work {n}" for n in range(4)], "in order"


async def test_within_a_slice_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_S", 60.0)
    turns = Turns()
    await turns.begin()
    begun = [turns.begin() for _ in range(3)]
    for one in begun:
        with pytest.raises(StopIteration):
            one.send(None)  # it returns without having let the loop run
