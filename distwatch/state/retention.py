"""Which events a reader needs that has lost earlier records; each event class declares it.

The same declaration bounds the agent's table and the state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, TypeVar

V = TypeVar("V")


class Retention:
    """How events of one class are kept: one for each key, and the newest `most` of these.

    Attributes:
        key: gives an event's key; a newer event replaces one with the same key. None: not kept.
        most: the number of events to keep; 0: none.
    """

    __slots__ = ("key", "most")

    def __init__(self, most: int, key: Callable[[Any], Hashable | None]) -> None:
        self.most = most
        self.key = key

    def put(self, table: dict[Any, V], key: Hashable, value: V) -> None:
        """Puts a value into a table that this rule bounds. Safe from any thread."""
        table[key] = value
        if len(table) > self.most:
            # list() is atomic: other threads may change the table during the loop.
            for oldest in list(table)[: -self.most]:
                table.pop(oldest, None)


NOT_KEPT = Retention(0, lambda _: None)


def latest(*fields: str, most: int = 1) -> Retention:
    """The latest event for each value of these fields; without fields, the latest of the class."""
    return Retention(most, attrgetter(*fields) if fields else lambda _: ())


def last(most: int) -> Retention:
    """The last `most` different events."""
    return Retention(most, lambda event: event)
