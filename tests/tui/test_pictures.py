"""What it looks like: SVG snapshots of every view, at the widths that people have."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

import pytest
from textual.pilot import Pilot

from distwatch.tui.app import DistwatchApp
from tests.diagnosis.recorded_loads import loading_job
from tests.tui.driving import NEVER_S, Clock
from tests.tui.scripted import SECOND, Script, ScriptedSource, hung_job, large_hang
from tests.tui.test_layout import job_of, of_plan

SIZES = [(80, 24), (120, 30), (200, 48)]
WIDTHS = [str(width) for width, _ in SIZES]


@pytest.mark.parametrize("size", SIZES, ids=WIDTHS)
@pytest.mark.parametrize(
    "view",
    ["ranks", "groups", "stacks", "devices", "events", "findings", "map", "waits", "timeline"],
)
def test_view(snap_compare: Callable[..., bool], view: str, size: tuple[int, int]) -> None:
    app = watching_app(hung_job())
    assert snap_compare(app, run_before=looking(app, view), terminal_size=size)


@pytest.mark.parametrize("size", SIZES, ids=WIDTHS)
@pytest.mark.parametrize("view", ["", "timeline"], ids=["first", "timeline"])
def test_many_ranks(snap_compare: Callable[..., bool], view: str, size: tuple[int, int]) -> None:
    app = watching_app(large_hang(1024))
    assert snap_compare(app, run_before=looking(app, view), terminal_size=size)


@pytest.mark.parametrize(
    ("name", "size"), [("wide", (200, 56)), ("medium", (120, 48)), ("narrow", (80, 40))]
)
def test_loading(snap_compare: Callable[..., bool], name: str, size: tuple[int, int]) -> None:
    # A recorded job's host begins its clock at the epoch.
    source = ScriptedSource(loading_job())
    app = DistwatchApp(source, clock=lambda: 64 * SECOND, refresh_s=NEVER_S)
    assert snap_compare(app, run_before=looking(app, "loading"), terminal_size=size)


@pytest.mark.parametrize("size", SIZES, ids=WIDTHS)
def test_layout(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    job = job_of(of_plan(8, tensor=2, pipeline=2), of_plan(8, tensor=4))
    source = ScriptedSource(job)
    app = DistwatchApp(source, clock=lambda: 64 * SECOND, refresh_s=NEVER_S)
    assert snap_compare(app, run_before=looking(app, "layout"), terminal_size=size)


def watching_app(script: Script) -> DistwatchApp:
    return DistwatchApp(ScriptedSource(script), clock=Clock(64.0), refresh_s=NEVER_S)


def looking(app: DistwatchApp, view: str) -> Callable[[Pilot[None]], Coroutine[None, None, None]]:
    """Reads the source once, then opens the view; '' stays in the first one."""

    async def look(pilot: Pilot[None]) -> None:
        await app.poll_once()
        await pilot.pause()
        if view:
            app.action_view(view)
        await pilot.pause()

    return look
