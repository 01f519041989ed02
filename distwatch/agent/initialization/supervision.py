"""A blocking call under a deadline that ends the call.

Nothing can raise an exception in a thread that is inside C++. But torch's store client raises by
itself when it loses its connection: so this process's own connections to the store are shut down.
A call that waits in Python is interrupted, where its caller asks for that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType

from distwatch.agent.initialization.interruption import Interruption
from distwatch.errors import InitFailed
from distwatch.runfolder import names_in

LOOK_EVERY_S = 0.25
CUT_EVERY_S = 0.2
INTERRUPT_EVERY_S = 1.0
ASK_AGAIN_S = 1.0


class Supervision:
    """Put around one call. Its thread's failure is raised instead of torch's own exception.

    The thread never calls torch: it only looks, and cuts the connections where the call must end.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        port: int | None,
        late: Callable[[], InitFailed | None],
        look: Callable[[], InitFailed | None] | None = None,
        spared: Callable[[], set[int]] = set,
        moved_ns: Callable[[], int] | None = None,
        interrupts: bool = False,
    ) -> None:
        """
        Args:
            port: the store's; None where there is no connection to cut.
            late: creates the failure once the deadline has passed; may take a few seconds. None: the call
                goes on, and is asked about again.
            look: called four times a second; a failure that it returns ends the call at once.
            spared: descriptors of connections that must remain.
            moved_ns: when the call last made progress: the deadline counts from then.
            interrupts: whether the call is also ended where it waits in Python, in the main thread.
        """
        self._deadline_s = deadline_s
        self._port = port
        self._late = late
        self._look = look
        self._spared = spared
        self._moved_ns = moved_ns
        self._interruption = Interruption() if interrupts else None
        self._over = threading.Event()
        self._failure: InitFailed | None = None
        self._refuted = False
        self._thread = threading.Thread(target=self._run, name="distwatch-deadline", daemon=True)

    def __enter__(self) -> Supervision:
        if self._interruption is not None:
            self._interruption.install()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.release()
        if error is not None and not isinstance(error, Exception):
            return  # Ctrl-C is the user's
        self._thread.join()
        if self._failure is not None and (error is not None or self._refuted):
            # A call that succeeded all the same may have formed a world that cannot work.
            if self._failure is error:
                return  # it was interrupted
            raise self._failure from error

    @property
    def interrupts(self) -> bool:
        """Whether a call that waits in Python can be ended here."""
        return self._interruption is not None and self._interruption.is_in_place

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, so that nobody waits for a reason any more."""
        return self._over.is_set()

    def release(self) -> None:
        """The call is over: nothing will end it any more. Raises nothing, unlike leaving the context."""
        if self._interruption is not None:
            self._interruption.remove()
        self._over.set()

    def _run(self) -> None:
        began, again = time.monotonic(), 0.0
        while not self._over.is_set():
            moved = self._moved_ns() / 1e9 if self._moved_ns is not None else began
            left_s = max(max(began, moved) + self._deadline_s, again) - time.monotonic()
            if left_s <= 0:
                if (failure := self._late()) is not None:
                    self._fail(failure, refuted=False)
                    return
                again = time.monotonic() + ASK_AGAIN_S
                continue
            if self._look is not None and (failure := self._look()) is not None:
                self._fail(failure, refuted=True)
                return
            self._over.wait(min(left_s, LOOK_EVERY_S if self._look else left_s))

    def _fail(self, failure: InitFailed, *, refuted: bool) -> None:
        self._failure, self._refuted = failure, refuted
        interrupted = 0.0
        # A client that is still connecting has no connection yet, and a library may go on after an
        # exception: repeat until the call ends.
        can_end = self._port is not None or self.interrupts
        while can_end and not self._over.is_set():
            if self._port is not None:
                cut_connections(self._port, spared=self._spared())
            now = time.monotonic()
            if self._interruption is not None and now - interrupted >= INTERRUPT_EVERY_S:
                interrupted = now
                self._interruption.request(failure)
            self._over.wait(CUT_EVERY_S)


def cut_connections(port: int, *, spared: Collection[int] = ()) -> int:
    """Shuts down this process's own TCP connections to a port; returns their number.

    Args:
        spared: descriptors to leave alone.
    """
    cut = 0
    for descriptor in map(int, names_in("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if descriptor in spared or not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            # A duplicate: torch itself closes the original.
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
                if is_tcp and connection.getpeername()[1] == port:
                    connection.shutdown(socket.SHUT_RDWR)
                    cut += 1
    return cut
