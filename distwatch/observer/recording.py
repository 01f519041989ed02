"""What the observer sees becomes events of a journal of its own, so that no verdict rests on less."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from distwatch.observer.segments import Segment
from distwatch.runfolder import RunFolder, start_ticks
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader, Record, process_key

_OFTEN = (ev.PulseRead, ev.ProcessSampled, ev.HostSampled, ev.DevicesSampled, ev.Ticked)
KEEP_EVERY_NS = 5_000_000_000

Sink = Callable[[FileHeader, int, int, ev.AnyEvent], None]


class Recording:
    """Journals an observer's events and hands every one of them on.

    What repeats (pulses, samples, ticks) is handed on always and journaled every five seconds at
    most; `dropped` counts events that the disk refused.
    """

    def __init__(self, folder: RunFolder, sink: Sink, *, writable: bool = True) -> None:
        pid, host = os.getpid(), os.uname().nodename
        ticks = start_ticks(pid)
        self.header = FileHeader(
            stream=f"observer:{process_key(host, pid, ticks)}",
            host=host,
            pid=pid,
            start_ticks=ticks,
            boot_id="",
            wall_offset_ns=time.time_ns() - time.monotonic_ns(),
            salt=random.SystemRandom().getrandbits(32),
        )
        self.dropped = 0
        self._sink = sink
        self._kept_ns: dict[tuple[type, str], int] = {}
        self._segment: Segment | None = None
        self._seq = 0
        if writable:
            path = f"{folder.path}/observer-{host}-{pid}-{ticks}.journal"
            self._segment = self._open(path)

    def record(self, event: ev.AnyEvent, *, keep: bool = False) -> None:
        """Notes an event now. `keep`: journal it however often it repeats."""
        now = time.monotonic_ns()
        seq = 0
        if self._segment is not None and (keep or self._is_due(event, now)):
            seq = self._write(now, event)
        self._sink(self.header, seq, now, event)

    def flush(self) -> None:
        """Has the kernel write it through."""
        if self._segment is not None:
            self._segment.flush()

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _open(self, path: str) -> Segment | None:
        try:
            return Segment(path, self.header)
        except OSError:
            return None

    def _is_due(self, event: ev.AnyEvent, now: int) -> bool:
        if not isinstance(event, _OFTEN):
            return True
        about = str(getattr(event, "process", ""))
        if now - self._kept_ns.get((type(event), about), 0) < KEEP_EVERY_NS:
            return False
        self._kept_ns[type(event), about] = now
        return True

    def _write(self, now: int, event: ev.AnyEvent) -> int:
        record = Record(seq=self._seq + 1, time_ns=now, payload=encode_event(event))
        try:
            assert self._segment is not None
            self._segment.append([record])
        except OSError:
            self.dropped += 1
            return 0
        self._seq += 1
        return self._seq
