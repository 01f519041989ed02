"""Which events a reader needs who has lost what came before; declared by each event's class.

The agent's table and the state are bounded by one and the same declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, TypeVar

V = TypeVar("V")


class Retention:
    """How events of one class are kept: one for each key, and of those the newest `most`.

    Attributes:
        key: of an event, under which a newer one takes its place; None: that one is not kept.
        most: 0: none is kept.
    """

    __slots__ = ("key", "most")

    def __init__(self, most: int, key: Callable[[Any], Hashable | None]) -> None:
        self.most = most
        self.key = key

    def put(self, table: dict[Any, V], key: Hashable, value: V) -> None:
        """Puts a value into a table that is kept in this way. Safe from any thread."""
        table[key] = value
        if len(table) > self.most:
            # The list is made in one go: the table itself may change while it is gone through.
            for oldest in list(table)[: -self.most]:
                table.pop(oldest, None)


NOT_KEPT = Retention(0, lambda _: None)


def latest(*fields: str, most: int = 1) -> Retention:
    """The latest event of each value of these fields; of the whole class without any."""
    return Retention(most, attrgetter(*fields) if fields else lambda _: ())


def last(most: int) -> Retention:
    """The last `most` events that differ."""
    return Retention(most, lambda event: event)
