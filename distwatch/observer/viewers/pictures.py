"""Pictures of a run's state for viewers: each is encoded once for all who come within a while."""

from __future__ import annotations

import asyncio
import logging

from distwatch.observer.daemon import Observer
from distwatch.observer.journals.checkpoint import encode_state, seal_state
from distwatch.observer.journals.reading import Entry
from distwatch.observer.viewers.differences import Differences
from distwatch.observer.viewers.messages import PICTURE_LIMIT

KEPT_S = 30.0
log = logging.getLogger("distwatch.observer")


class Pictures:
    """The newest picture, and what has changed since."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._one_at_a_time = asyncio.Lock()
        self._sealed = b""
        self._since: Differences | None = None
        self._forgets: asyncio.TimerHandle | None = None

    async def newest(self) -> tuple[bytes, Differences] | None:
        """A picture, and a copy of what has changed until now; None where the state cannot be told so."""
        async with self._one_at_a_time:
            if not self._sealed or self._since is None or self._since.too_many:
                self.forget()
                await self._take()
            if not self._sealed or self._since is None:
                return None
            return self._sealed, self._since.copy()

    async def _take(self) -> None:
        try:
            content = encode_state(self._observer.state)
        except Exception as error:
            # Such as a file name that is not UTF-8: the records tell the same, and take longer.
            log.warning("the state cannot be encoded: %r", error)
            return
        self._since = Differences()
        self._observer.sinks.append(self._note)
        try:
            sealed = await asyncio.to_thread(seal_state, content)
        except BaseException:  # the viewer has left meanwhile
            self.forget()
            raise
        if sealed is None or len(sealed) > PICTURE_LIMIT:
            self.forget()
            return
        self._sealed = sealed
        self._forgets = asyncio.get_running_loop().call_later(KEPT_S, self.forget)

    def _note(self, entry: Entry) -> None:
        if self._since is not None:
            self._since.take(entry)

    def forget(self) -> None:
        """Lets go of the picture: the next viewer gets a new one."""
        if self._forgets is not None:
            self._forgets.cancel()
        if self._since is not None:
            self._observer.sinks.remove(self._note)
        self._forgets, self._sealed, self._since = None, b"", None
