"""An exception in the main thread, out of what a signal interrupts: a read, a sleep, a lock, a wait for a child.

Python runs a signal's handler in the main thread and gives up the interrupted call if the handler raises
(PEP 475). What the kernel does not interrupt goes on: disk sleep, a page fault on a stalled disk; so does
native code that repeats its own read.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

from distwatch.agent import guard

SIGNAL = signal.SIGURG
"""Ignored by default: one that comes too late does nothing."""


class Interruption:
    """The handler of one call, put in place and taken away in the main thread."""

    def __init__(self) -> None:
        self._failure: Exception | None = None
        self._before: Any = None
        self.is_in_place = False

    def install(self) -> None:
        """Does nothing in another thread, or where the job has a handler of its own for that signal."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(SIGNAL) not in (signal.SIG_DFL, signal.SIG_IGN):
            return
        with contextlib.suppress(ValueError):  # not the main interpreter
            self._before = signal.signal(SIGNAL, self._handle)
            self.is_in_place = True

    def remove(self) -> None:
        """Idempotent; in the thread of `install`."""
        if self.is_in_place and signal.getsignal(SIGNAL) == self._handle:
            signal.signal(SIGNAL, self._before)
        self.is_in_place = False

    def request(self, failure: Exception) -> None:
        """Asks the main thread to raise; from any thread. To be repeated until the call has ended."""
        if self.is_in_place:
            self._failure = failure
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._failure is not None and not _is_ours(frame):
            raise self._failure


def _is_ours(frame: FrameType | None) -> bool:
    """Whether a hook of ours is under way, which would swallow the exception and be switched off."""
    while frame is not None:
        if frame.f_code is guard.guard_end.__code__:
            return True
        frame = frame.f_back
    return False
