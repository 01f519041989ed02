"""The pictures of README and docs, made by the tools themselves: `make pictures`.

Each is taken of a demo run that hangs: the live page and the list of runs while it does, by a Chromium of this
machine; the TUI (as SVG) and the report of its recording. Only the map is of a job of 1,024 ranks that is
written by hand, as a map of four shows nothing. `tests/docs/test_pictures.py` fails where a page's picture is
missing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from playwright.sync_api import sync_playwright

from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.targets.recorded_run import RecordedRun
from distwatch.observer.targets.run_source import RunSource
from distwatch.observer.targets.target import report_on
from distwatch.report.formats import render
from distwatch.runfolder import RunFolder
from distwatch.tui.app import DistwatchApp
from distwatch.web.pages import Pages
from distwatch.web.server import WebServer
from tests.tui.scripted import ScriptedSource, large_hang

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).parent.parent / "docs" / "images"
CASE = "data_stall"
PAGE = (1280, 1000)
RUNS_HEIGHT = 260
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""Textual's picture fetches its fonts from elsewhere; whoever looks at it has one of their own."""


class Screen(NamedTuple):
    """A picture of the TUI: the file's name, the size of the terminal, and the view; '' is the first."""

    name: str
    size: tuple[int, int]
    view: str = ""


SCREENS = (Screen("tui.svg", (140, 38)), Screen("stacks.svg", (120, 32), "stacks"))
MAP = Screen("map.svg", (120, 34), "map")
MAP_RANKS = 1024
LIVE, RUNS, REPORT = "live.png", "runs.png", "report.png"
NAMES = (*(screen.name for screen in SCREENS), MAP.name, LIVE, RUNS, REPORT)
WITHIN_S = 300.0


def main() -> None:
    """Runs the demo, and takes all pictures of it."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o700)
        with browser_page() as page:
            folder = run_demo(root, page)
        for screen in SCREENS:
            take_screen(screen, RecordedRun(RunFolder(folder)))
        take_screen(MAP, ScriptedSource(large_hang(MAP_RANKS)))
        report = Path(root, "report.html")
        report.write_text(asyncio.run(page_of(folder)), encoding="utf-8")
        with browser_page() as page:
            page.goto(report.as_uri())
            page.screenshot(path=IMAGES / REPORT)
    print(f"written: {', '.join(NAMES)} in {IMAGES}")


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of this machine's Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        sys.exit("no chromium: install it, for example with `apt-get install chromium`")
    # As root, Chromium's own sandbox does not start; the pages are our own.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        yield browser.new_page(viewport={"width": PAGE[0], "height": PAGE[1]})
        browser.close()


def run_demo(root: str, page: Page) -> str:
    """Runs the demo to its verdict, and takes the live pages while it hangs; returns the run's folder."""
    command = [sys.executable, "-m", "distwatch.cli", "demo", CASE, "--dir", root]
    demo = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + WITHIN_S
    while not any(map(any_alive, run_folders(root))):
        if demo.poll() is not None or time.monotonic() > limit:
            sys.exit("the demo's job did not start: `make demo` says why")
        time.sleep(0.2)
    # The demo ends its job once it has the verdict: it has to wait until the pictures are taken.
    demo.send_signal(signal.SIGSTOP)
    try:
        take_live_pages(root, page)
    finally:
        demo.send_signal(signal.SIGCONT)
        demo.wait(WITHIN_S)
    (folder,) = run_folders(root)
    return folder.path


def take_live_pages(root: str, page: Page) -> None:
    """The live page of the run once its verdict has come, and the list of runs."""
    server = WebServer(Pages(root), "127.0.0.1", 0)
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        page.goto(server.url)
        page.locator(".verdict.hang").wait_for(timeout=WITHIN_S * 1000)
        page.locator(".way.blamed pre").wait_for(timeout=WITHIN_S * 1000)
        page.screenshot(path=IMAGES / LIVE)
        page.goto(f"{server.url}runs")
        page.locator(".runs .hang").wait_for(timeout=WITHIN_S * 1000)
        page.screenshot(
            path=IMAGES / RUNS, clip={"x": 0, "y": 0, "width": PAGE[0], "height": RUNS_HEIGHT}
        )
    finally:
        server.stop()
        serving.join()


def take_screen(screen: Screen, source: RunSource) -> None:
    """A picture of the TUI as a file."""
    picture = asyncio.run(picture_of(screen, source))
    (IMAGES / screen.name).write_text(picture, encoding="utf-8")


async def picture_of(screen: Screen, source: RunSource) -> str:
    """The TUI on a run as SVG."""
    # A recording says itself when it is; the job that is written by hand is 64 s old.
    app = DistwatchApp(source, clock=lambda: 64 * 10**9, refresh_s=86_400.0)
    async with app.run_test(size=screen.size) as pilot:
        await app.poll_once()
        if isinstance(source, RecordedRun):
            app.session.seek(while_it_hung(source))
        if screen.view:
            app.action_view(screen.view)
        if screen.view == MAP.view:
            app.action_culprit()
        app.draw()
        while not app.query("FooterKey"):  # it comes by itself, some time after the rest
            await pilot.pause()
        await pilot.pause()
        return _FONTS.sub("", app.export_screenshot(title="distwatch"))


async def page_of(folder: str) -> str:
    """The report on the recorded run as a page."""
    source = RecordedRun(RunFolder(folder))
    await source.open()
    source.seek(while_it_hung(source))
    return render(report_on(source.state), "html").decode()


def while_it_hung(source: RecordedRun) -> int:
    """The last moment of the recording, in ns, before the demo ended its job."""
    ends = [p.ended_ns for p in source.state.processes.values() if p.ended_ns is not None]
    return min(ends) - 100_000_000


if __name__ == "__main__":
    main()
