"""A picture of the TUI on a recorded run, for the README.

`distwatch demo`, then `python tools/tui_picture.py RUN_FOLDER docs/images/tui.svg [SECONDS]`: as it stood
that long before the recording ends (default: 4 s, when the demo's job still hung).
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from distwatch.observer.targets.sources import RecordedRun
from distwatch.runfolder import RunFolder
from distwatch.tui.app import DistwatchApp

SIZE = (118, 16)
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""Textual's picture fetches its fonts from elsewhere; whoever looks at it has one of their own."""


async def picture(folder: str, before_end_s: float) -> str:
    """The first screen as SVG."""
    source = RecordedRun(RunFolder(folder))
    app = DistwatchApp(source, refresh_s=86_400.0)
    async with app.run_test(size=SIZE) as pilot:
        await app.poll_once()
        assert source.span is not None
        app.session.seek(source.span[1] - int(before_end_s * 1e9))
        app.draw()
        await pilot.pause()
        return _FONTS.sub("", app.export_screenshot(title="distwatch"))


def main(folder: str, target: str, before_end_s: str = "4") -> None:
    """Writes the file."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(asyncio.run(picture(folder, float(before_end_s))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
