"""Tests run in UTC, with no setting of the developer's terminal, and a pause ends when all is drawn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from textual.pilot import Pilot

from tests.tui.driving import is_drawn

DRAWN_WITHIN_S = 60.0


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    for name in ("NO_COLOR", "TEXTUAL", "TEXTUAL_FILTERS", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def pauses_until_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual's own pause ends when the process uses no CPU for 20 ms, as it does on a busy machine, too."""
    monkeypatch.setattr(Pilot, "pause", _pause)


async def _pause(pilot: Pilot[None], delay: float | None = None) -> None:
    await asyncio.wait_for(_drawn(pilot), DRAWN_WITHIN_S)


async def _drawn(pilot: Pilot[None]) -> None:
    rounds = 0
    # Twice: in the first round a handler may still have been at work on a message of a widget that was through.
    while rounds < 2 and await pilot._wait_for_screen():
        rounds = rounds + 1 if is_drawn(pilot.app) else 0
        pilot.app.screen._on_timer_update()  # the next frame, without its 1/60 s
