"""Waits of ranks for ranks: one, and many at once."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["collective", "p2p", "group", "init", "lock", "socket"]


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One rank waits for another, in one call."""

    waiter: int
    awaited: int
    kind: Kind
    what: str
    """`all_reduce #5 of default_pg`, `recv #3 from rank 2`."""
    waited_s: float = 0.0
    overdue: bool = False
    pg_name: str = ""
    seq: int = -1


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """How long a rank has been in a wait."""

    waited_s: float
    overdue: bool = False


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Many edges at once: each of the waiters waits for each of the awaited ranks, in one call."""

    kind: Kind
    what: str
    waiters: dict[int, Wait]
    awaited: tuple[int, ...]
    pg_name: str = ""
    seq: int = -1
    is_joint: bool = False
    """In a group with members of other worlds, which is judged as a world of its own."""

    @property
    def overdue(self) -> bool:
        return any(wait.overdue for wait in self.waiters.values())

    def edge(self, waiter: int, awaited: int) -> Edge:
        """One of them."""
        wait = self.waiters[waiter]
        return Edge(
            waiter=waiter,
            awaited=awaited,
            kind=self.kind,
            what=self.what,
            waited_s=wait.waited_s,
            overdue=wait.overdue,
            pg_name=self.pg_name,
            seq=self.seq,
        )
