"""One interface for everything that a viewer shows, live or recorded."""

from __future__ import annotations

import asyncio
from typing import Literal

from distwatch.errors import DistwatchError
from distwatch.runfolder import RunFolder
from distwatch.state.finding import Finding
from distwatch.state.model import RunState


class SourceLost(DistwatchError):
    """The source is gone; the state stays as it last was."""


class RunSource:
    """A run to watch. `state` changes only inside `poll` and `seek`.

    Attributes:
        note: where the data comes from, for the header: `observer pid 123`, `recorded`, …
        span: the first and last time (ns) of a recording; None for a live run.
        cursor_ns: the time in the recording that `state` shows.
        findings: the verdict on `state`, where somebody has judged exactly that; else None.
        injects: whether the agent is brought into its ranks at `open`, because a person asked for it.
        not_injected: why that failed in a rank, a sentence for each.
        left_out: why a host was not joined, a sentence for each.
    """

    live = True
    can_inject = False

    def __init__(self, folder: RunFolder, note: str) -> None:
        self.folder = folder
        self.run_id = folder.run_id
        self.note = note
        self.state = RunState(run_id=folder.run_id)
        self.span: tuple[int, int] | None = None
        self.cursor_ns = 0
        self.findings: list[Finding] | None = None
        self.injects: Literal["", "for good", "dump only"] = ""
        self.not_injected: list[str] = []
        self.left_out: list[str] = []

    async def open(self) -> None:
        """Starts watching; raises DistwatchError where that fails."""
        raise NotImplementedError

    async def poll(self) -> bool:
        """Takes in what is new; returns whether there was anything. Raises SourceLost once if it is gone."""
        raise NotImplementedError

    async def wait(self, timeout_s: float) -> None:
        """Returns when there may be news, at the latest after `timeout_s`."""
        await asyncio.sleep(timeout_s)

    async def dump(self) -> str:
        """Asks for a full incident now; returns a sentence about the result."""
        raise NotImplementedError

    def seek(self, time_ns: int) -> None:
        """Goes to a moment of a recording; does nothing for a live run."""

    async def close(self) -> None:
        """Releases everything."""
