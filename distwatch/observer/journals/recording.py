"""The observer's own journal: a verdict rests only on recorded events."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import msgspec

from distwatch.observer.journals.refusal import Refusal
from distwatch.observer.journals.segments import Segment
from distwatch.runfolder import RunFolder, boot_id, host_name, start_ticks
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import MAX_PAYLOAD, FileHeader, Record, process_key
from distwatch.state.ray_events import RayLooked

_OFTEN = (
    ev.PulseRead,
    ev.ProcessSampled,
    ev.HostSampled,
    ev.DevicesSampled,
    ev.PortsSampled,
    ev.Ticked,
    ev.StackTaken,
    RayLooked,
)
KEEP_EVERY_NS = 5_000_000_000
UNCHANGED_EVERY_NS = 60_000_000_000
TRY_AGAIN_NS = 5_000_000_000
SIZE_LIMIT = 64 * 1024 * 1024
ROUTINE_LIMIT = 48 * 1024 * 1024
"""Repeated events stop here, so that a verdict after weeks still fits."""
SPARE_FROM = 8 * 1024 * 1024
RESERVE = 64 * 1024
"""Bytes that are allocated beforehand, so that the losses on a full disk can still be recorded."""
OPERATIONS_KEPT = 8

Sink = Callable[[FileHeader, int, int, ev.Event], None]
RecordSink = Callable[[FileHeader, Record], None]


class Recording:
    """Journals an observer's events and hands each of them on.

    Repeated events (pulses, samples, ticks, stacks) are always handed on; they are journaled every few
    seconds if they changed, else once a minute.

    Attributes:
        dropped: events that the disk refused, or that exceeded the journal's limit.
    """

    def __init__(
        self,
        folder: RunFolder,
        sink: Sink,
        journaled: RecordSink = lambda _header, _record: None,
        *,
        writable: bool = True,
    ) -> None:
        """`sink` gets every event, `journaled` each record that is on disk."""
        pid, host = os.getpid(), host_name()
        ticks = start_ticks(pid)
        # An observer may be embedded twice in one process: each has its own stream.
        salt = random.SystemRandom().getrandbits(32)
        self.header = FileHeader(
            stream=f"observer:{process_key(host, pid, ticks)}#{salt:08x}",
            host=host,
            pid=pid,
            start_ticks=ticks,
            boot_id=boot_id(),
            wall_offset_ns=time.time_ns() - time.monotonic_ns(),
            salt=salt,
        )
        self.dropped = 0
        self._sink = sink
        self._journaled = journaled
        self._kept: dict[tuple[type, str], tuple[int, object]] = {}
        self._pending: dict[tuple[type, str], tuple[int, ev.Event]] = {}
        """The newest repeated events that were handed on and not journaled."""
        self._segment: Segment | None = None
        self._seq = 0
        self._missed: set[tuple[str, str]] = set()
        self._refusal = Refusal("observations")
        self._refused = OSError(0, "")
        self._try_at = 0
        name = f"observer-{host}-{pid}-{ticks}-{salt:08x}"
        self._path = f"{folder.path}/{name}.journal" if writable else ""

    def record(self, event: ev.Event, *, keep: bool = False) -> None:
        """Records an event now. `keep`: journal it however often it repeats."""
        now = time.monotonic_ns()
        seq = 0
        due = keep or self._is_due(event, now)
        if self._path and due:
            seq = self._write(now, event)
        if isinstance(event, _OFTEN):
            key = _key(event)
            if due:
                self._pending.pop(key, None)
            else:
                self._pending[key] = (now, event)
        self._sink(self.header, seq, now, event)

    def miss(self, what: str, why: str, process: str | None = None, *, once: bool = False) -> bool:
        """Records that something could not be observed; returns False if `once` left it out.

        Args:
            once: leave it out if the same was recorded before.
        """
        if once:
            if (what, why) in self._missed:
                return False
            self._missed.add((what, why))
        self.record(ev.NotObserved(host=self.header.host, what=what, why=why, process=process))
        return True

    def write_pending(self) -> None:
        """Journals the newest of everything: the evidence must be on disk with its verdict."""
        pending = sorted(self._pending.values(), key=lambda one: one[0])
        self._pending.clear()
        for now, event in pending if self._path else ():
            self._write(now, event)

    def flush(self) -> None:
        """Flushes the journal to disk; records a failure instead of raising it."""
        if self._segment is None:
            return
        try:
            self._segment.flush()
        except OSError as error:
            self._say(f"the observer's journal could not be flushed: {error.strerror}")

    def close(self) -> None:
        if self._refusal.lost:
            self._say(self._refusal.finish())
            self.flush()
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _is_due(self, event: ev.Event, now: int) -> bool:
        if not isinstance(event, _OFTEN):
            return True
        key = _key(event)
        kept_ns, kept = self._kept.get(key, (0, None))
        size = self._segment.size if self._segment is not None else 0
        if kept_ns and size > ROUTINE_LIMIT:
            self._say(
                f"the observer's journal has {size >> 20} MiB: it takes no more pulses or samples"
            )
            return False
        content = material(event)
        spare = size > SPARE_FROM or (kept == content and not isinstance(event, ev.Ticked))
        if kept_ns and now - kept_ns < (UNCHANGED_EVERY_NS if spare else KEEP_EVERY_NS):
            return False
        self._kept[key] = (now, content)
        return True

    def _write(self, now: int, event: ev.Event) -> int:
        if isinstance(event, ev.PulseRead):
            event = shorten(event, OPERATIONS_KEPT)
        record = Record(seq=self._seq + 1, time_ns=now, payload=encode_event(event))
        try:
            segment = self._opened(now)
            if len(record.payload) > MAX_PAYLOAD:
                raise OSError(27, f"an event of {len(record.payload) >> 10} KiB is too long")
            if segment.size + len(record.payload) > SIZE_LIMIT:
                raise OSError(27, f"it has reached its limit of {SIZE_LIMIT >> 20} MiB")
            recovered = self._append(segment, record, spared=isinstance(event, _OFTEN))
        except OSError as error:
            self.dropped += 1
            self._refusal.note(error)
            self._say(self._refusal.standing)
            return 0
        self._seq = seq = record.seq
        self._journaled(self.header, record)
        if recovered and self._refusal.lost:
            self._say(self._refusal.finish())
        return seq

    def _append(self, segment: Segment, record: Record, *, spared: bool) -> bool:
        """Whether the disk had room for the record beside the reserve, which only rare events may use."""
        try:
            segment.append([record])
        except OSError:
            if spared:
                raise
            segment.append([record], from_reserve=True)
            return False
        return True

    def _opened(self, now: int) -> Segment:
        if self._segment is None:
            if now < self._try_at:
                raise self._refused
            try:
                self._segment = Segment(
                    self._path, self.header, limit=2 * SIZE_LIMIT, reserve=RESERVE
                )
            except OSError as error:
                self._refused, self._try_at = error, now + TRY_AGAIN_NS
                raise
        return self._segment

    def _say(self, why: str) -> None:
        """Records each text once: for the viewers, and in the journal if it can still be written."""
        self.miss("observer's journal", why, once=True)


def _key(event: ev.Event) -> tuple[type, str]:
    return type(event), str(getattr(event, "process", ""))


def material(event: ev.Event) -> object:
    """The part of a repeated event that must differ for the event to be news."""
    if isinstance(event, ev.PulseRead):
        last = event.operations[-1] if event.operations else None
        return event.pulse.groups, event.pulse.recorder, event.pulse.dropped, last
    if isinstance(event, ev.ProcessSampled):
        moved_ns = event.flow.moved_ns if event.flow else None
        call = event.state, event.wchan, event.syscall, event.blocked_on
        return *call, event.children, moved_ns
    if isinstance(event, ev.StackTaken):
        return event.threads, event.error
    if isinstance(event, ev.HostSampled):
        return event.cgroup_limit, event.oom_kills, event.memory_available >> 28
    return event


def shorten(read: ev.PulseRead, kept: int) -> ev.PulseRead:
    """A pulse with only its open and newest operations; its own file keeps all of them."""
    if len(read.operations) <= kept:
        return read
    newest = read.operations[-kept:]
    unfinished = tuple(op for op in read.operations[:-kept] if not op.left_ns)
    return msgspec.structs.replace(read, operations=(unfinished + newest))
