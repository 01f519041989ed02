"""What a viewer looks at, be it live or recorded: one interface."""

from __future__ import annotations

import asyncio

from distwatch.errors import DistwatchError
from distwatch.runfolder import RunFolder
from distwatch.state.model import RunState


class SourceLost(DistwatchError):
    """What was looked at is gone; the state keeps what it last said."""


class RunSource:
    """A run to look at. `state` changes only inside `poll` and `seek`.

    Attributes:
        note: where it comes from, for the header: `observer pid 123`, `replay`, ….
        span: first and last time (ns) of a recording; None while it is live.
        cursor_ns: where in the recording `state` stands.
    """

    live = True

    def __init__(self, folder: RunFolder, note: str) -> None:
        self.folder = folder
        self.run_id = folder.run_id
        self.note = note
        self.state = RunState(run_id=folder.run_id)
        self.span: tuple[int, int] | None = None
        self.cursor_ns = 0

    async def open(self) -> None:
        """Begins to look; raises DistwatchError where it cannot."""
        raise NotImplementedError

    async def poll(self) -> bool:
        """Takes in what is new; whether there was any. Raises SourceLost once where it is gone."""
        raise NotImplementedError

    async def wait(self, timeout_s: float) -> None:
        """Returns when something may be new, at the latest after `timeout_s`."""
        await asyncio.sleep(timeout_s)

    async def dump(self) -> str:
        """Asks for a full incident now; what came of it, for people."""
        raise NotImplementedError

    def seek(self, time_ns: int) -> None:
        """Goes to a moment of a recording; a live run has no other than now."""

    async def close(self) -> None:
        """Gives back what was taken."""
