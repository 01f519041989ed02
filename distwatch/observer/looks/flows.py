"""What processes move, from one look to the next: bytes, memory, and CPU of the main thread."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from distwatch.probes.flow import Counts, counts_of
from distwatch.probes.process import awaited_sockets, main_thread_busy_s
from distwatch.probes.repeated_output import Output, repeated_line
from distwatch.probes.socket_counters import received_by
from distwatch.state.flow import Flow, Moved

OVER_S = 10.0
READ_AT_LEAST = 64 * 1024
"""Bytes within OVER_S. Who looks at a small file again and again waits for it; whoever writes, moves."""
RECEIVED_AT_LEAST = 4 * 1024
"""A connection that is only kept alive gets less."""
TOUCHED_AT_LEAST = 1024 * 1024
"""A loop that polls uses the same memory again and again."""
_KEPT = 4096
_LOOKS = 16
_SOCKETS = 8


class _Look(NamedTuple):
    at_ns: int
    main: Counts
    others: Counts
    received: int
    cpu_s: float


class _Watched(msgspec.Struct):
    """One process."""

    looks: deque[_Look]
    newest: Flow | None = None
    threads: dict[int, Counts] = {}
    """Of the last look: the counts of a thread go with it."""
    others: Counts = Counts()
    """What all other threads have moved since the first look."""
    received: int = 0
    sockets: dict[str, int] = {}
    """Connections that the main thread has waited on, with the bytes that each had received."""
    output: Output | None = None
    """As it was when the lines were first compared."""
    repeats: str = ""
    asleep_since_ns: int = 0


class Flows:
    """The last looks at each process."""

    def __init__(self) -> None:
        self._watched: OrderedDict[str, _Watched] = OrderedDict()

    def newest(self, key: str) -> Flow | None:
        """What the last look found; None where there was none."""
        watched = self._watched.get(key)
        return watched.newest if watched else None

    def await_sockets(self, key: str, inodes: Iterable[str]) -> None:
        """The main thread waits on these sockets: what they receive counts as moved by it."""
        sockets = self._of(key).sockets
        if new := set(inodes) - sockets.keys():
            # Now, not at the next look: it may last for a short time only.
            counts = received_by(new)
            sockets.update((inode, counts.get(inode, 0)) for inode in new)
        while len(sockets) > _SOCKETS:
            del sockets[next(iter(sockets))]

    def count_received(self) -> None:
        """Asks the kernel once for all of those sockets."""
        counts = received_by({inode for one in self._watched.values() for inode in one.sockets})
        for watched in self._watched.values():
            for inode, known in watched.sockets.items():
                if (now := counts.get(inode)) is not None:
                    watched.received += max(0, now - known)
                    watched.sockets[inode] = now

    def note_output(self, key: str, now: Output | None) -> None:
        """What it has written to its log: the same over and over is no movement."""
        watched = self._of(key)
        if now is None or watched.output is None:
            watched.output, watched.repeats = now, ""
            return
        line = repeated_line(watched.output, now)
        if line is None:
            return
        watched.repeats = line
        if not line:
            watched.output = now
        elif watched.newest is not None:
            still = msgspec.structs.replace(watched.newest.main, at_ns=0)
            watched.newest = msgspec.structs.replace(watched.newest, main=still, repeats=line)

    def look(self, key: str, pid: int, *, woken: bool = False) -> Flow | None:
        """What a process has moved since it was looked at first, and lately; None where it cannot be read.

        Args:
            woken: the observer itself has let its main thread run since, where it slept.
        """
        counts, cpu_s = counts_of(pid), main_thread_busy_s(pid)
        if counts is None or cpu_s is None:
            return None
        self.await_sockets(key, awaited_sockets(pid, thorough=False))
        watched = self._of(key)
        looks, known = watched.looks, watched.newest or Flow()
        main_counts, threads = counts
        if looks:
            for task, one in threads.items():
                watched.others = watched.others.plus(one.since(watched.threads.get(task, Counts())))
        watched.threads = threads
        now = _Look(time.monotonic_ns(), main_counts, watched.others, watched.received, cpu_s)
        while len(looks) > 1 and now.at_ns - looks[0].at_ns > OVER_S * 1e9:
            looks.popleft()
        first, before = (looks[0], looks[-1]) if looks else (now, now)
        if now.cpu_s != before.cpu_s and not (woken and watched.asleep_since_ns):
            watched.asleep_since_ns = 0
        elif looks:
            watched.asleep_since_ns = watched.asleep_since_ns or before.at_ns
        looks.append(now)
        main = _moved(
            first.main, before.main, now.main, now.at_ns, known.main, writes=not watched.repeats
        )
        flow = watched.newest = Flow(
            main=_with_received(main, first.received, before.received, now),
            others=_moved(first.others, before.others, now.others, now.at_ns, known.others),
            cpu_s=max(0.0, now.cpu_s - first.cpu_s),
            system_s=max(0.0, now.main.system_s - first.main.system_s),
            at_ns=now.at_ns,
            over_s=(now.at_ns - first.at_ns) / 1e9,
            repeats=watched.repeats,
            asleep_since_ns=watched.asleep_since_ns,
        )
        return flow

    def _of(self, key: str) -> _Watched:
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched(looks=deque(maxlen=_LOOKS))
            if len(self._watched) > _KEPT:
                self._watched.popitem(last=False)
        return watched


def _moved(
    first: Counts, before: Counts, now: Counts, at_ns: int, known: Moved, *, writes: bool = True
) -> Moved:
    grown = now.since(first)
    moves = (
        (writes and now.written > before.written)
        or (now.read > before.read and grown.read >= READ_AT_LEAST)
        or (now.touched > before.touched and grown.touched >= TOUCHED_AT_LEAST)
    )
    return Moved(
        at_ns=at_ns if moves else known.at_ns,
        read_bytes=grown.read,
        written_bytes=grown.written,
        touched_bytes=grown.touched,
        busy_s=grown.busy_s,
    )


def _with_received(moved: Moved, first: int, before: int, now: _Look) -> Moved:
    received = now.received - first
    moves = now.received > before and received >= RECEIVED_AT_LEAST
    return msgspec.structs.replace(
        moved, received_bytes=received, at_ns=now.at_ns if moves else moved.at_ns
    )
