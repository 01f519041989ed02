"""Drives the app through a pilot: polls only when a test says so, at a clock that a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.app import App
from textual.pilot import Pilot

from distwatch.tui.app import DistwatchApp
from tests.tui.scripted import Records, ScriptedSource, clock_at

NEVER_S = 86_400.0


class Clock:
    """A wall clock in seconds of the script."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> int:
        return clock_at(self.at)


def is_drawn(app: App[None]) -> bool:
    """Whether no widget has a message left, and the screen nothing to lay out or to draw."""
    screen = app.screen
    pumps = [app, *screen.walk_children(with_self=True)]
    if any(
        pump.message_queue_size or pump._pending_message or pump._next_callbacks for pump in pumps
    ):
        return False
    changed = screen._layout_required or screen._scroll_required or screen._repaint_required
    return not (changed or screen._recompose_required or screen._dirty_widgets or screen._callbacks)


class Viewer:
    """The app under test, what it looks at, and what is on its screen."""

    def __init__(self, source: ScriptedSource, *, at: float, folder: str | None = None) -> None:
        self.source = source
        self.clock = Clock(at)
        self.app = DistwatchApp(source, clock=self.clock, export_folder=folder, refresh_s=NEVER_S)
        self.pilot: Pilot[None]

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        await self.press(*("space" if key == " " else key for key in text))

    async def poll(self) -> None:
        await self.app.poll_once()
        await self.pilot.pause()

    async def finish_work(self) -> None:
        """Waits until an export or dump that a key began has ended."""
        for worker in list(self.app.workers):
            if worker.group in ("export", "dump"):
                await worker.wait()
        await self.pilot.pause()

    @property
    def screen(self) -> str:
        """All that is on the screen, as text."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    @property
    def notices(self) -> list[str]:
        return [notice.message for notice in self.app._notifications]


@asynccontextmanager
async def watching(
    script: Records,
    *,
    size: tuple[int, int] = (120, 30),
    at: float = 64.0,
    live: bool = True,
    until: float | None = None,
    folder: str | None = None,
) -> AsyncIterator[Viewer]:
    """A running app that has read its source once."""
    viewer = Viewer(ScriptedSource(script, live=live, until=until), at=at, folder=folder)
    async with viewer.app.run_test(size=size, notifications=True) as viewer.pilot:
        await viewer.poll()
        yield viewer
