"""What the threads of a model load wait for: requests, downloads, locks, reads."""

from __future__ import annotations

import itertools
import os
import threading
import time

import msgspec

from distwatch.agent.guard import error_text
from distwatch.redaction import redact_text
from distwatch.state.loads import Outstanding, Waiting

TOLD = 4
_BLOCK = 512


class Wait(msgspec.Struct, eq=False):
    """One wait of a thread: for a request, a download, a lock or a read."""

    waiting: Waiting
    what: str
    descriptor: int = -1
    """Of the file that a download writes; its position is the progress."""
    path: str = ""
    """Of that file, where native code writes it."""
    size: int = 0
    """The expected number of bytes."""
    thread: int = msgspec.field(default_factory=threading.get_ident)
    since_ns: int = msgspec.field(default_factory=time.monotonic_ns)
    attempts: int = 1
    last_error: str = ""
    has_failed: bool = False

    def fetched(self) -> int:
        """Bytes that a download has written so far; 0 where they are not visible."""
        try:
            if self.descriptor >= 0:
                # From the kernel: a file system might not answer.
                with open(f"/proc/self/fdinfo/{self.descriptor}", encoding="ascii") as info:
                    return int(info.readline().split()[1])
            # The bytes on disk: a file may have its full size before anything is written.
            return os.stat(self.path).st_blocks * _BLOCK if self.path else 0
        except (OSError, ValueError, IndexError):
            return 0


class Waits:
    """All waits of one load, from any thread.

    Attributes:
        fetched: bytes of completed bodies.
        answers: the number of completed requests, bodies and locks.
    """

    def __init__(self) -> None:
        self.fetched = 0
        self.answers = 0
        self._waits: dict[int, Wait] = {}
        self._tokens = itertools.count()

    def begin(self, wait: Wait) -> int:
        """A thread is about to wait for something; the token for `end`."""
        token = next(self._tokens)
        # Repeating a wait continues it: locks are polled, and requests are retried.
        for earlier in list(self._waits.values()):
            if (earlier.waiting, earlier.what) == (wait.waiting, wait.what) and earlier.has_failed:
                wait.since_ns, wait.attempts = earlier.since_ns, earlier.attempts + 1
                wait.last_error = earlier.last_error
        self._forget_failed(wait.what)
        self._waits[token] = wait
        return token

    def end(self, token: int, error: BaseException | None = None) -> Wait | None:
        """The wait is over; returns it if that is progress of the load.

        A failed wait stays listed until something else begins.
        """
        wait = self._waits.pop(token, None)
        if wait is None or wait.waiting == "file":
            return None
        if error is not None:
            wait.last_error, wait.has_failed = (redacted(error) or "")[:200], True
            self._waits[token] = wait
            return None
        if wait.waiting == "request" and self._resumes_download(wait):
            return None
        self.answers += 1
        if wait.waiting == "download":
            self.fetched += wait.size or wait.fetched()
        return wait

    def is_downloading(self, what: str) -> bool:
        """Whether that body is already being downloaded."""
        waits = list(self._waits.values())
        return any((w.waiting, w.what, w.has_failed) == ("download", what, False) for w in waits)

    def downloads(self) -> list[Wait]:
        """Bodies that are being downloaded, the oldest first."""
        return [wait for wait in self._by_age() if wait.waiting == "download"]

    def outstanding(self, reading: list[tuple[str, int]]) -> tuple[Outstanding, ...]:
        """The oldest waits, for the pulse.

        Args:
            reading: files from which threads read tensors, and since when.
        """
        told = [
            Outstanding(
                waiting=wait.waiting,
                what=wait.what,
                since_ns=wait.since_ns,
                attempts=wait.attempts,
                last_error=wait.last_error,
            )
            for wait in self._by_age()
        ]
        told += [Outstanding(waiting="file", what=path, since_ns=since) for path, since in reading]
        return tuple(sorted(told, key=lambda one: one.since_ns)[:TOLD])

    def _by_age(self) -> list[Wait]:
        return sorted(self._waits.values(), key=lambda wait: wait.since_ns)

    def _resumes_download(self, request: Wait) -> bool:
        """A stopped body is requested again and again, so only its bytes count as progress."""
        mine = [w for w in list(self._waits.values()) if w.thread == request.thread]
        return any(wait.waiting == "download" for wait in mine)

    def _forget_failed(self, what: str) -> None:
        for token, earlier in list(self._waits.items()):
            if earlier.has_failed and (earlier.what == what or earlier.waiting == "request"):
                self._waits.pop(token, None)


def redacted(error: BaseException | None) -> str | None:
    """The error's message, redacted: it may quote signed URLs."""
    text = error_text(error)
    return None if text is None else redact_text(text)
