"""What it looks like: SVG snapshots of the screens that people paste."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

import pytest
from textual.pilot import Pilot

from distwatch.tui.app import DistwatchApp
from tests.diagnosis.recorded_loads import loading_job
from tests.tui.driving import NEVER_S, Clock
from tests.tui.scripted import SECOND, ScriptedSource, hung_job
from tests.tui.test_layout import job_of, of_plan


@pytest.mark.parametrize(
    ("name", "keys", "size"),
    [("ranks", (), (110, 28)), ("groups", ("2",), (110, 28)), ("narrow", (), (80, 24))],
)
def test_picture(
    snap_compare: Callable[..., bool], name: str, keys: tuple[str, ...], size: tuple[int, int]
) -> None:
    app = DistwatchApp(ScriptedSource(hung_job()), clock=Clock(64.0), refresh_s=NEVER_S)
    assert snap_compare(app, run_before=looking(app, keys), terminal_size=size)


@pytest.mark.parametrize(
    ("name", "size"), [("wide", (110, 56)), ("narrow", (80, 40)), ("detail", (110, 40))]
)
def test_loading(snap_compare: Callable[..., bool], name: str, size: tuple[int, int]) -> None:
    # A recorded job's host begins its clock at the epoch.
    source = ScriptedSource(loading_job())
    app = DistwatchApp(source, clock=lambda: 64 * SECOND, refresh_s=NEVER_S)
    keys = ("7", "end", "enter") if name == "detail" else ("7",)
    assert snap_compare(app, run_before=looking(app, keys), terminal_size=size)


def test_layout(snap_compare: Callable[..., bool]) -> None:
    job = job_of(of_plan(8, tensor=2, pipeline=2), of_plan(8, tensor=4))
    source = ScriptedSource(job)
    app = DistwatchApp(source, clock=lambda: 64 * SECOND, refresh_s=NEVER_S)
    assert snap_compare(app, run_before=looking(app, ("8",)), terminal_size=(100, 32))


def looking(
    app: DistwatchApp, keys: tuple[str, ...]
) -> Callable[[Pilot[None]], Coroutine[None, None, None]]:
    """Reads the source once, then presses the keys."""

    async def look(pilot: Pilot[None]) -> None:
        await app.poll_once()
        await pilot.press(*keys)
        await pilot.pause()

    return look
