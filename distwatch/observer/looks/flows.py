"""What processes move, from one look to the next: bytes read and written, CPU of the main thread."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import NamedTuple

from distwatch.probes.flow import Bytes, bytes_moved
from distwatch.probes.process import main_thread_busy_s
from distwatch.state.flow import Flow, Moved

OVER_S = 10.0
READ_AT_LEAST = 64 * 1024
"""Bytes within OVER_S. Who looks at a small file again and again waits for it; whoever writes, moves."""
_KEPT = 4096
_LOOKS = 16


class _Look(NamedTuple):
    at_ns: int
    main: Bytes
    others: Bytes
    cpu_s: float


class Flows:
    """The last looks at each process."""

    def __init__(self) -> None:
        self._looks: OrderedDict[str, deque[_Look]] = OrderedDict()
        self._newest: dict[str, Flow] = {}

    def newest(self, key: str) -> Flow | None:
        """What the last look found; None where there was none."""
        return self._newest.get(key)

    def look(self, key: str, pid: int) -> Flow | None:
        """What a process has moved since it was looked at first, and lately; None where it cannot be read."""
        counts, cpu_s = bytes_moved(pid), main_thread_busy_s(pid)
        if counts is None or cpu_s is None:
            return None
        looks = self._looks.setdefault(key, deque(maxlen=_LOOKS))
        now = _Look(time.monotonic_ns(), *counts, cpu_s)
        while len(looks) > 1 and now.at_ns - looks[0].at_ns > OVER_S * 1e9:
            looks.popleft()
        first, before = (looks[0], looks[-1]) if looks else (now, now)
        looks.append(now)
        known = self._newest.get(key, Flow())
        flow = self._newest[key] = Flow(
            main=_moved(first.main, before.main, now.main, now.at_ns, known.main),
            others=_moved(first.others, before.others, now.others, now.at_ns, known.others),
            cpu_s=max(0.0, now.cpu_s - first.cpu_s),
            over_s=(now.at_ns - first.at_ns) / 1e9,
        )
        if len(self._looks) > _KEPT:
            gone, _ = self._looks.popitem(last=False)
            self._newest.pop(gone, None)
        return flow


def _moved(first: Bytes, before: Bytes, now: Bytes, at_ns: int, known: Moved) -> Moved:
    # The count of a thread that has ended is gone: less than before says nothing.
    read, written = max(0, now.read - first.read), max(0, now.written - first.written)
    moves = now.written > before.written or (now.read > before.read and read >= READ_AT_LEAST)
    return Moved(at_ns=at_ns if moves else known.at_ns, read_bytes=read, written_bytes=written)
