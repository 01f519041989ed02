"""Connections whose other side is not authenticated yet: few at a time, and none of them for long.

When all places are taken, a new connection replaces the oldest one of the peer that has the most: a
peer that takes all places loses its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)


class Strangers(Generic[C]):
    """The table of such connections. It closes nothing itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._peers: dict[C, str] = {}

    def add(self, connection: C, peer: str) -> C | None:
        """Adds a connection.

        Args:
            peer: the other side, as far as it is known before it sends anything.

        Returns:
            The connection that must be closed for it.
        """
        gone = self._one_to_go() if len(self._peers) >= self._most else None
        self._peers[connection] = peer
        return gone

    def remove(self, connection: C) -> bool:
        """Removes a connection that is authenticated or over; False if it was replaced before."""
        return self._peers.pop(connection, None) is not None

    def _one_to_go(self) -> C:
        ((most, _),) = Counter(self._peers.values()).most_common(1)
        oldest = next(one for one, peer in self._peers.items() if peer == most)
        del self._peers[oldest]
        return oldest
