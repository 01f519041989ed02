"""A blocking call of torch under a deadline that is acted on, not only written down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from distwatch.agent.initialization.interruption import cut_connections
from distwatch.errors import InitFailed

LOOK_EVERY_S = 0.25
CUT_EVERY_S = 0.2


class Supervision:
    """Around one call. What its own thread finds is raised in place of what torch says of it.

    The thread never calls torch: it looks, and where the call must end it shuts down this
    process's connections to the store, upon which the call raises.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        port: int | None,
        late: Callable[[], InitFailed],
        look: Callable[[], InitFailed | None] | None = None,
        spared: Callable[[], set[int]] = set,
    ) -> None:
        """
        Args:
            port: of the store; None where there is nothing to shut down.
            late: makes the failure once the deadline has passed; may take a few seconds.
            look: asked four times a second; what it returns ends the call at once.
            spared: descriptors of connections that must stay.
        """
        self._deadline_s = deadline_s
        self._port = port
        self._late = late
        self._look = look
        self._spared = spared
        self._over = threading.Event()
        self._failure: InitFailed | None = None
        self._refuted = False
        self._thread = threading.Thread(target=self._run, name="distwatch-deadline", daemon=True)

    def __enter__(self) -> Supervision:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over.set()
        if error is not None and not isinstance(error, Exception):
            return  # Ctrl-C is the user's
        self._thread.join()
        if self._failure is not None and (error is not None or self._refuted):
            # A call that came to an end all the same may have formed a world that cannot work.
            raise self._failure from error

    def _run(self) -> None:
        until = time.monotonic() + self._deadline_s
        while not self._over.is_set():
            left_s = until - time.monotonic()
            if left_s <= 0:
                self._fail(self._late(), refuted=False)
                return
            if self._look is not None and (failure := self._look()) is not None:
                self._fail(failure, refuted=True)
                return
            self._over.wait(min(left_s, LOOK_EVERY_S if self._look else left_s))

    def _fail(self, failure: InitFailed, *, refuted: bool) -> None:
        self._failure, self._refuted = failure, refuted
        # A client that is only just connecting has no connection yet: again until it ends.
        while self._port is not None and not self._over.is_set():
            cut_connections(self._port, spared=self._spared())
            self._over.wait(CUT_EVERY_S)
