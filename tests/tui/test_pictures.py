"""What it looks like: SVG snapshots of the three screens that people paste."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from distwatch.tui.app import DistwatchApp
from tests.tui.driving import NEVER_S, Clock
from tests.tui.scripted import ScriptedSource, hung_job


@pytest.mark.parametrize(
    ("name", "keys", "size"),
    [("ranks", (), (110, 28)), ("groups", ("2",), (110, 28)), ("narrow", (), (80, 24))],
)
def test_picture(
    snap_compare: Callable[..., bool], name: str, keys: tuple[str, ...], size: tuple[int, int]
) -> None:
    app = DistwatchApp(ScriptedSource(hung_job()), clock=Clock(64.0), refresh_s=NEVER_S)

    async def look(pilot: Pilot[None]) -> None:
        await app.poll_once()
        await pilot.press(*keys)
        await pilot.pause()

    assert snap_compare(app, run_before=look, terminal_size=size)
