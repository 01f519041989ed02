"""The pictures of README and docs, made by the tools themselves: `make pictures`.

Each is taken of a demo run that hangs: the TUI as SVG, the report's first screen as PNG by a Chromium
of this machine. `tests/docs/test_pictures.py` fails where a page's picture is missing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from distwatch.observer.targets.sources import RecordedRun
from distwatch.observer.targets.target import report_on
from distwatch.report.formats import render
from distwatch.runfolder import RunFolder
from distwatch.tui.app import DistwatchApp

IMAGES = Path(__file__).parent.parent / "docs" / "images"
CASE = "data_stall"
PAGE = (1280, 1000)
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""Textual's picture fetches its fonts from elsewhere; whoever looks at it has one of their own."""


class Screen(NamedTuple):
    """A picture of the TUI: the file's name, the size of the terminal, and the view; '' is the first."""

    name: str
    size: tuple[int, int]
    view: str = ""


SCREENS = (Screen("tui.svg", (140, 38)), Screen("stacks.svg", (120, 32), "stacks"))
REPORT = "report.png"


def main() -> None:
    """Records the demo, and takes all pictures of it."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        sys.exit("no chromium: install it, for example with `apt-get install chromium`")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o700)
        folder = record_demo(root)
        for screen in SCREENS:
            picture = asyncio.run(picture_of(screen, folder))
            (IMAGES / screen.name).write_text(picture, encoding="utf-8")
        page = Path(root, "report.html")
        page.write_text(asyncio.run(page_of(folder)), encoding="utf-8")
        take_page(chromium, page, IMAGES / REPORT)
    print(f"written: {', '.join([*(screen.name for screen in SCREENS), REPORT])} in {IMAGES}")


def record_demo(root: str) -> str:
    """Runs the demo to its verdict; returns the run's folder."""
    demo = [sys.executable, "-m", "distwatch.cli", "demo", CASE, "--dir", root]
    subprocess.run(demo, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    (run,) = (entry.path for entry in os.scandir(root) if entry.name.startswith("demo-"))
    return run


async def picture_of(screen: Screen, folder: str) -> str:
    """The TUI on the recorded run as SVG."""
    source = RecordedRun(RunFolder(folder))
    app = DistwatchApp(source, refresh_s=86_400.0)
    async with app.run_test(size=screen.size) as pilot:
        await app.poll_once()
        app.session.seek(while_it_hung(source))
        if screen.view:
            app.action_view(screen.view)
        app.draw()
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


def take_page(chromium: str, page: Path, target: Path) -> None:
    """The first screen of a page as PNG."""
    options = ["--headless", "--disable-gpu", "--hide-scrollbars"]
    # As root, Chromium's own sandbox does not start; the page is our own.
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    size = f"--window-size={PAGE[0]},{PAGE[1]}"
    command = [chromium, *options, size, f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
