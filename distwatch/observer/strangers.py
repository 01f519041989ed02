"""Connections whose other side is not known yet: few at a time, and none of them for long.

Where all places are taken, a new one does not wait: one of the others goes. It is the oldest of
whoever has the most, so that one who takes all places loses his own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)


class Strangers(Generic[C]):
    """The table of them. It closes nothing itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._peers: dict[C, str] = {}

    def add(self, connection: C, peer: str) -> C | None:
        """Takes a connection in.

        Args:
            peer: who they are, as far as that can be seen before they say anything.

        Returns:
            The connection that has to go for it.
        """
        gone = self._one_to_go() if len(self._peers) >= self._most else None
        self._peers[connection] = peer
        return gone

    def remove(self, connection: C) -> bool:
        """It is known now, or over; False where it had to go before."""
        return self._peers.pop(connection, None) is not None

    def _one_to_go(self) -> C:
        ((most, _),) = Counter(self._peers.values()).most_common(1)
        oldest = next(one for one, peer in self._peers.items() if peer == most)
        del self._peers[oldest]
        return oldest
