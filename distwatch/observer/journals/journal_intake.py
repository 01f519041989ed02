"""What the ranks of this host tell: taken from their rings and pulses into journals and state."""

from __future__ import annotations

from typing import Protocol

from distwatch.observer.journals.following import Followed, Follower
from distwatch.observer.journals.recording import Recording, RecordSink
from distwatch.observer.looks.tracking import Tracking
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import decode_event
from distwatch.state.frames import FileHeader
from distwatch.state.model import RunState


class Fold(Protocol):
    """How an event gets into the state."""

    def __call__(
        self,
        header: FileHeader,
        seq: int,
        time_ns: int,
        event: ev.AnyEvent | ev.UnknownEvent,
        payload: bytes = b"",
    ) -> None: ...


class Intake:
    """Follows every process of the run folder; whom it finds is tracked from then on."""

    def __init__(
        self,
        folder: RunFolder,
        recording: Recording,
        tracking: Tracking,
        state: RunState,
        fold: Fold,
        hand_on: RecordSink,
        *,
        writable: bool,
    ) -> None:
        """`hand_on` gets each record as it stands in its journal, `fold` its event after that."""
        self._recording = recording
        self._tracking = tracking
        self._state = state
        self._fold = fold
        self._hand_on = hand_on
        self._writable = writable
        self._follower = Follower(folder, writable=writable)
        self._volatile = folder.volatile

    def take(self) -> None:
        """All that is new."""
        for start in self._follower.new_starts():
            self._tracking.add_start(start)
        for followed in self._follower.discover():
            self._tracking.add_agent(followed.header)
        for followed in self._follower.followed.values():
            if not followed.over:
                self._take_records(followed)
                self._take_pulse(followed)

    def take_last_words(self, keys: set[str] | None = None) -> None:
        """After an end: what those processes wrote last is still in their rings and pulses.

        Args:
            keys: of the processes; None: of all.
        """
        self.take()
        for key, followed in self._follower.by_key().items():
            if (keys is None or key in keys) and not followed.over:
                self._take_records(followed, last_time=True)
                self._take_pulse(followed)
                followed.keep_pulse()
                followed.flush()
                tracked = self._tracking.processes.get(key)
                followed.over = tracked is None or tracked.ended

    def keep_pulses(self) -> None:
        """Copies the pulses that changed to disk."""
        if self._writable:
            for followed in self._follower.followed.values():
                followed.keep_pulse()

    def flush(self) -> None:
        """Has the kernel write the journals through."""
        for followed in self._follower.followed.values():
            followed.flush()

    def sockets(self) -> dict[str, str]:
        """The control sockets of the agents that live, by process key."""
        living = {tracked.key for tracked in self._tracking.living()}
        return {
            followed.header.stream: f"{self._volatile}/{stem}.sock"
            for stem, followed in self._follower.followed.items()
            if followed.header.stream in living
        }

    def close(self) -> None:
        self._follower.close()

    def _take_records(self, followed: Followed, *, last_time: bool = False) -> None:
        header = followed.header
        for record in followed.read(last_time=last_time):
            self._hand_on(header, record)
            event = decode_event(record.payload)
            if event is not None:
                self._fold(header, record.seq, record.time_ns, event, record.payload)

    def _take_pulse(self, followed: Followed) -> None:
        read = followed.read_pulse()
        if read is not None:
            self._recording.record(read)
        if followed.trouble:
            why, followed.trouble = followed.trouble, ""
            key = followed.header.stream
            known = self._state.processes.get(key)
            if known is None or known.outside.not_observed.get("disk") != why:
                host = self._recording.header.host
                self._recording.record(ev.NotObserved(host=host, what="disk", why=why, process=key))
