"""Live pages: one watch for each thing that is looked at, however many look, and a stream for each of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable

import msgspec

from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.observer.background import end_tasks, wait_for_any
from distwatch.web.looks import Look

log = logging.getLogger("distwatch.web")
STREAMS = 16
"""The most streams at once: the other places are for pages and programs."""
WATCHES = 8
"""The most runs that are watched at once: each keeps a run in memory."""
LINGER_S = 20.0
"""How long a watch stays that nobody looks at: a page opens its stream a moment later, or again."""
HEARTBEAT_S = 10.0
"""After so much silence a stream says that it is there, so that both ends find out when the other is gone."""
RETRY_MS = 2000


class TooMany(DistwatchError):
    """All places are taken."""


class Watch:
    """The newest version of each part of a page, made by a task of its own.

    Attributes:
        version: counts up with each change; 0: nothing is there yet.
        over: why there will be no further version; '' while there may be.
        failure: why the last look failed; '' where it did not.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.version = 0
        self.over = ""
        self.failure = ""
        self.viewers = 0
        self._parts: dict[str, tuple[int, str]] = {}
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of anything here; after that there is another."""
        return self._changed

    def newer(self, version: int) -> dict[str, str]:
        """The parts that have changed since that version."""
        return {name: text for name, (since, text) in self._parts.items() if since > version}

    async def first(self) -> None:
        """Returns once there is a version.

        Raises:
            NoSuchTarget: it is gone.
            DistwatchError: it cannot be read.
        """
        while not self.version:
            if self.over:
                raise NoSuchTarget(self.over)
            if self.failure:
                raise DistwatchError(self.failure)
            await self._changed.wait()

    async def end(self) -> None:
        """Ends the watch, and every stream on it."""
        await end_tasks(self._task)
        await self.look.close()
        self._tell()

    async def _follow(self) -> None:
        while True:
            try:
                parts = await self.look.next()
            except NoSuchTarget as error:
                self.over = str(error)
                self._tell()
                return
            except Exception as error:
                # A run that cannot be read now may be readable in a moment.
                if not isinstance(error, DistwatchError):
                    log.warning("a live page could not be made", exc_info=True)
                self.failure = str(error) or type(error).__name__
                self._tell()
                await asyncio.sleep(HEARTBEAT_S)
                continue
            self.failure = ""
            new = {n: text for n, text in parts.items() if self._parts.get(n, (0, ""))[1] != text}
            if new or not self.version:
                self.version += 1
                self._parts |= {name: (self.version, text) for name, text in new.items()}
                self._tell()

    def _tell(self) -> None:
        told, self._changed = self._changed, asyncio.Event()
        told.set()


class Hub:
    """All watches of a server. For one event loop."""

    def __init__(self) -> None:
        self._epoch = secrets.token_hex(4)
        """Versions of another server mean nothing here."""
        self._watches: dict[str, Watch] = {}
        self._ending: set[asyncio.Future[None]] = set()
        self._streams = 0
        self._closing = asyncio.Event()

    async def watch(self, key: str, look: Callable[[], Look]) -> Watch:
        """The watch with that key, begun where there is none, with its first version.

        Raises:
            TooMany: no further one may be begun.
            DistwatchError: as `Watch.first`.
        """
        watch = self._watches.get(key)
        if watch is None or watch.over:
            if len(self._watches) >= WATCHES:
                raise TooMany(f"{WATCHES} runs are looked at already: close a page, and try again")
            watch = self._watches[key] = Watch(look())
        watch.viewers += 1
        try:
            await watch.first()
        finally:
            self._leave(key, watch)
        return watch

    def require_room(self) -> None:
        """Raises TooMany where no further stream may be opened."""
        if self._streams >= STREAMS:
            raise TooMany(f"{STREAMS} live pages are open already: close one, and try again")

    def at(self, watch: Watch) -> str:
        """The name of a watch's newest version."""
        return f"{self._epoch}-{watch.version}"

    async def stream(self, key: str, watch: Watch, after: str) -> AsyncIterator[bytes]:
        """Server-sent events: what has changed after a version, then every change.

        Args:
            after: a version's name; of any that is not known, everything is sent.
        """
        self._streams += 1
        watch.viewers += 1
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            version = self._version(after, watch)
            while not self._closing.is_set():
                changed = watch.changed
                if news := watch.newer(version):
                    version = watch.version
                    yield event("parts", msgspec.json.encode(news), self.at(watch))
                elif watch.over:
                    yield event("over", watch.over.encode(), self.at(watch))
                    return
                else:
                    await wait_for_any(changed, self._closing, within_s=HEARTBEAT_S)
                    if not changed.is_set():
                        yield b": still here\n\n"
        finally:
            self._streams -= 1
            self._leave(key, watch)

    def close(self) -> None:
        """Ends all streams, so that the server can end."""
        self._closing.set()

    async def end(self) -> None:
        """Ends all watches."""
        self.close()
        for watch in list(self._watches.values()):
            await watch.end()
        self._watches.clear()
        await asyncio.gather(*self._ending)

    def _version(self, name: str, watch: Watch) -> int:
        epoch, _, number = name.rpartition("-")
        known = epoch == self._epoch and number.isascii() and number.isdigit() and len(number) < 12
        return int(number) if known and int(number) <= watch.version else 0

    def _leave(self, key: str, watch: Watch) -> None:
        watch.viewers -= 1
        if not watch.viewers:
            asyncio.get_running_loop().call_later(LINGER_S, self._drop, key, watch)

    def _drop(self, key: str, watch: Watch) -> None:
        if watch.viewers or self._watches.get(key) is not watch:
            return
        del self._watches[key]
        ending = asyncio.ensure_future(watch.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def event(kind: str, data: bytes, name: str = "") -> bytes:
    """One server-sent event. `name`: what a client that connects again says that it had last."""
    lines = b"\n".join(b"data: " + line for line in data.splitlines() or [b""])
    named = b"id: %s\n" % name.encode() if name else b""
    return b"event: %s\n%s%s\n\n" % (kind.encode(), named, lines)
