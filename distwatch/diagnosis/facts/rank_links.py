"""TCP connections between ranks: whose other end is which rank, and whether data is on its way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

import msgspec

from distwatch.state.addresses import is_loopback
from distwatch.state.events import Connection
from distwatch.state.finding import Evidence
from distwatch.state.model import Process

_SHOWN = 6
_End = tuple[str, str, str]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A rank's connection. `peer_rank`: who has its other end; None: no rank that was looked at."""

    global_rank: int
    connection: Connection
    peer_rank: int | None
    to_store: bool

    @property
    def is_idle(self) -> bool:
        """Whether it is open, everything that was sent has come, and everything that came was read."""
        one = self.connection
        moving = one.unacknowledged_bytes or one.unread_bytes
        return one.state == "established" and not moving

    @property
    def peer_closed(self) -> bool:
        return self.connection.state == "close_wait"


class RankLinks:
    """The connections of the ranks of one world, as far as somebody looked at all of them."""

    def __init__(self, ranks: Mapping[int, Process]) -> None:
        seen = {rank: p.outside.connections for rank, p in ranks.items()}
        self._whole = {
            rank for rank, one in seen.items() if one is not None and one.held and not one.unlisted
        }
        ends = {
            _end(ranks[rank], connection.local, connection.peer): rank
            for rank, one in seen.items()
            for connection in (one.held if one is not None else ())
        }
        self._of: dict[int, tuple[Link, ...]] = {
            rank: tuple(
                Link(
                    global_rank=rank,
                    connection=connection,
                    peer_rank=ends.get(_end(ranks[rank], connection.peer, connection.local)),
                    to_store=_is_of_store(ranks[rank], connection),
                )
                for connection in one.held
            )
            for rank, one in seen.items()
            if one is not None and ranks[rank].ended_ns is None
        }

    def of(self, rank: int) -> tuple[Link, ...]:
        """The connections of a rank; none where nobody looked."""
        return self._of.get(rank, ())

    def rank_at(self, rank: int, peer: str) -> int | None:
        """Which rank has the other end of that rank's connection to an address."""
        found = (link.peer_rank for link in self.of(rank) if link.connection.peer == peer)
        return next((one for one in found if one is not None), None)

    def are_idle(self, ranks: Collection[int]) -> bool:
        """Whether each two of these ranks are connected, and nothing that one has sent is still to come or to read."""
        for rank in ranks:
            links = [link for link in self.of(rank) if not link.to_store]
            between = [link for link in links if link.peer_rank in ranks and link.peer_rank != rank]
            if rank not in self._whole or not all(link.is_idle for link in between):
                return False
            if {link.peer_rank for link in between} != set(ranks) - {rank}:
                return False
        return True

    def evidence(self, ranks: Iterable[int]) -> Iterable[Evidence]:
        """What the connections of these ranks show that decides: data that nobody reads, and ends that are closed."""
        for link in islice((one for rank in ranks for one in self.of(rank) if _told(one)), _SHOWN):
            yield Evidence("proc", _told(link), link.global_rank)


def _told(link: Link) -> str:
    one, rank = link.connection, link.global_rank
    who = f"rank {link.peer_rank}" if link.peer_rank is not None else one.peer
    if link.to_store and link.peer_rank is None:
        who = "the store"
    if one.unread_bytes:
        count = f"{one.unread_bytes} byte{'s' if one.unread_bytes > 1 else ''}"
        return f"rank {rank} has not read {count} from {who} ({one.local} ← {one.peer})"
    if link.peer_closed:
        return f"rank {rank}: {who} has closed its end of {one.local} → {one.peer}"
    return ""


def _end(process: Process, local: str, peer: str) -> _End:
    """A loopback address means another machine on each host."""
    inside = is_loopback(local.rpartition(":")[0])
    return process.host if inside else "", local, peer


def _is_of_store(process: Process, connection: Connection) -> bool:
    port = process.identity.master_port
    ends = (connection.local, connection.peer)
    return port is not None and any(end.endswith(f":{port}") for end in ends)
