"""How often each process group was called from Python, and which numbers p2p took."""

from __future__ import annotations

import sys
import weakref
from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Any

from distwatch.state.events import GroupProgress, PeerProgress

if TYPE_CHECKING:
    from distwatch.agent._calls import CallRecord

RUNS_KEPT = 8192
PEERS_KEPT = 1024
PEERS_TOLD = 48
WORKS_KEPT = 64


class Counts:
    """For each group, the number of calls from Python."""

    def __init__(self) -> None:
        self.collectives: dict[str, int] = {}
        """Sequence number of the last collective that the Python path recorded."""
        self.p2p: dict[str, int] = {}
        self.peers: dict[tuple[str, str, int, int], int] = {}
        """Posted so far, by group, send or recv, peer's rank in the group, and tag; the most recently
        used comes last."""
        self.taken: dict[str, list[tuple[int, int]]] = {}
        """Runs of numbers that p2p took: the last number, and the count up to it."""
        self.unnumbered: set[str] = set()
        """Groups whose backend has no sequence numbers (MPI, plugins): counted here instead."""
        self._works: dict[str, deque[tuple[int, weakref.ref[Any]]]] = {}
        """What the last calls have returned, where no recorder says which of them have completed."""
        self.compiled: CallRecord | None = None
        """What counts the collectives that compiled code records."""

    def counted(self) -> dict[str, int]:
        """For each group, the number up to which compiled code has counted."""
        return self.compiled.numbers() if self.compiled is not None else {}

    def agree(self, counted: dict[str, int], progress: GroupProgress) -> None:
        """Compares what was counted with what torch's recorder said after that."""
        if self.compiled is not None and progress.pg_name in counted:
            name = progress.pg_name
            self.compiled.agree(name, counted[name], progress.enqueued)

    def last_collectives(self) -> dict[str, int]:
        """For each group, the sequence number of the last collective called from Python."""
        newest = {
            name: max(number, self.collectives.get(name, 0))
            for name, number in self.counted().items()
        }
        return {**self.collectives, **newest}

    def post(self, pg_name: str, op: str, peer: int, tag: int) -> int:
        """Counts a send or recv; returns its 1-based index among those of its kind."""
        key = (pg_name, op, peer, tag)
        posted = self.peers.pop(key, 0) + 1
        self.peers[key] = posted
        if len(self.peers) > PEERS_KEPT:
            del self.peers[next(iter(self.peers))]
        return posted

    def newest_peers(self) -> tuple[PeerProgress, ...]:
        """The peers that were sent to or received from last, newest first."""
        newest = list(self.peers.items())[-PEERS_TOLD:]
        return tuple(
            PeerProgress(pg_name=name, op=op, peer=peer, tag=tag, posted=posted)  # type: ignore[arg-type]
            for (name, op, peer, tag), posted in reversed(newest)
        )

    def keep_work(self, pg_name: str, work: Any) -> None:
        """Notes what the newest collective returned, without keeping it or its tensors alive."""
        if work is not None:
            works = self._works.setdefault(pg_name, deque(maxlen=WORKS_KEPT))
            works.append((self.collectives.get(pg_name, -1), weakref.ref(work)))

    def completed(self, pg_name: str) -> int:
        """The number up to which a group's collectives have completed; -1 where nothing is known.

        A call that waits holds what it waits for, so what nobody holds any more is over. Who drops it at once
        and never waits cannot be told from that. For the agent's thread: `is_completed` keeps the GIL.
        """
        works = self._works.get(pg_name)
        if works is None:
            return -1
        last = self.collectives.get(pg_name, -1)
        while works:
            seq, reference = works[0]
            work = reference()
            if work is not None and not work.is_completed():
                return max(0, seq - 1)
            works.popleft()
            last = max(last, seq)
        return last

    def take(self, pg_name: str, before: int, taken: int) -> None:
        """Notes that the numbers from `before` + 1 on went to p2p or a monitored barrier."""
        if taken <= 0:
            return
        runs = self.taken.setdefault(pg_name, [])
        last, total = runs[-1] if runs else (-1, 0)
        run = (before + taken, total + taken)
        if last == before:
            runs[-1] = run
        else:
            runs.append(run)
            if len(runs) > RUNS_KEPT:
                del runs[: RUNS_KEPT // 2]

    def without_p2p(self, pg_name: str, number: int) -> int:
        """A collective's number without p2p, of which ranks make different numbers of calls."""
        runs = self.taken.get(pg_name)
        if not runs or number <= 0:
            return number
        place = bisect_right(runs, (number, sys.maxsize))
        return number - (runs[place - 1][1] if place else 0)

    def taken_by_p2p(self, pg_name: str) -> int:
        """How many of a group's numbers so far went to p2p."""
        runs = self.taken.get(pg_name)
        return runs[-1][1] if runs else 0

    def forget(self, pg_name: str) -> None:
        """Drops a destroyed group, whose name may be used again; all groups for ''."""
        tables: tuple[dict[str, Any], ...] = (
            self.collectives, self.p2p, self.taken, self._works,
        )  # fmt: skip
        for table in tables:
            if pg_name:
                table.pop(pg_name, None)
            else:
                table.clear()
        kept = {key: n for key, n in self.peers.items() if pg_name and key[0] != pg_name}
        self.peers = kept
        self.unnumbered -= {pg_name} if pg_name else self.unnumbered
        if self.compiled is not None:
            self.compiled.forget_groups()
