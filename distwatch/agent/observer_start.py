"""Starts the node's observer if none is running: the first agent does, or a later one if it died."""

from __future__ import annotations

import fcntl
import os
import time

from distwatch.agent.ptrace import allow_tracing_by, yama_asks_for_consent
from distwatch.foreign_files import open_ours, read_ours
from distwatch.observer_process import start_observer
from distwatch.runfolder import RunFolder
from distwatch.settings import Settings

CHECK_EVERY_S = 5.0
TRIES = 5


class ObserverStart:
    """Checks every few seconds whether the run has an observer on this node."""

    def __init__(self, folder: RunFolder, settings: Settings) -> None:
        self._folder = folder
        self._wanted = settings.observer != "off"
        self._next_check = 0.0
        self._tries = 0
        self._allowed: int | None = None
        self.is_there = False
        """Whether an observer ran at the last check, or was about to be started."""

    def ensure(self) -> None:
        """Starts a detached observer if none is running. Only the agent's thread calls this."""
        now = time.monotonic()
        if not self._wanted or now < self._next_check:
            return
        self._next_check = now + CHECK_EVERY_S
        observer = self._observer_pid()
        self.is_there = observer is not None or self._tries < TRIES
        if observer is not None:
            self._consent(observer)
            return
        if self._tries >= TRIES:
            return
        # All ranks of a node find at the same time that there is no observer: only one of them acts.
        gate = open_ours(f"{self._folder.path}/observer.start", os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if time.time() - os.fstat(gate).st_mtime < CHECK_EVERY_S and os.fstat(gate).st_size:
                return
            os.pwrite(gate, b"%d\n" % os.getpid(), 0)
            os.utime(gate)
            self._tries += 1
            start_observer(self._folder, os.environ)
        finally:
            os.close(gate)

    def _observer_pid(self) -> int | None:
        try:
            pid = int(read_ours(self._folder.lock, 32).split()[0])
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return pid if b"distwatch" in file.read() else None
        except (OSError, ValueError, IndexError):
            return None

    def _consent(self, observer: int) -> None:
        if observer != self._allowed:
            self._allowed = observer
            if yama_asks_for_consent():
                allow_tracing_by(observer)
