"""Takes in the dumps that torch's watchdog writes, and asks it for one where no agent could give it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterable, Mapping

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder_files import Unreadable, events_of_dumps, read_left_dump
from distwatch.observer.background import in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.tracking import Tracked
from distwatch.probes.recorder_files import (
    RecorderFiles,
    ask_for_dump,
    newest_dump,
    recorder_files_of,
)

SCAN_EVERY_S = 2.0
PAUSES_S = (10.0, 30.0, 60.0)
"""Between the requests for a dump: a dump costs its rank tens of milliseconds."""
_ROLES = ("rank", "agent", "other")
_MOST = 1024
WHAT = "flight recorder file"


class RecorderLooks:
    """One scan at a time, in a thread of its own: a home folder may be on a network that hangs."""

    def __init__(self, recording: Recording, on_news: Callable[[], None] = lambda: None) -> None:
        """`on_news` is called when dumps were found."""
        self._recording = recording
        self._on_news = on_news
        self._files: dict[str, RecorderFiles | None] = {}
        self._read: dict[str, int] = {}
        """By process, when its newest dump that was read was written (wall clock)."""
        self._dumps: dict[int, RankDump] = {}
        self._paths: dict[int, str] = {}
        self._scan_at = self._ask_at = 0.0
        self._asked = 0
        self._scanning: asyncio.Task[None] | None = None

    def consider(self, processes: Iterable[Tracked], why: str, *, agents: Container[str]) -> None:
        """Starts a scan if one is due. Never waits for it.

        Args:
            processes: of the run on this host, also those that have ended.
            why: something is suspicious; '': nothing is.
            agents: the processes that have an agent, which gives its dumps itself.
        """
        now = time.monotonic()
        for tracked in processes:
            known = tracked.key in self._files or tracked.ended or len(self._files) >= _MOST
            if tracked.role in _ROLES and not known:
                self._files[tracked.key] = recorder_files_of(tracked.pid, time.time_ns())
        if why and now >= self._ask_at:
            self._ask_at = now + PAUSES_S[min(self._asked, len(PAUSES_S) - 1)]
            self._asked += 1
            for key, files in self._files.items():
                if files is not None and key not in agents:
                    ask_for_dump(files)
        if now < self._scan_at or (self._scanning is not None and not self._scanning.done()):
            return
        self._scan_at = now + SCAN_EVERY_S
        self._scanning = asyncio.create_task(self.scan())

    async def scan(self) -> None:
        """Reads what is new; returns when that is recorded."""
        known = {key: files for key, files in self._files.items() if files is not None}
        try:
            found, refused = await in_background(_scan, known, dict(self._read), within_s=None)
        except Exception as error:
            self._recording.miss(WHAT, f"{type(error).__name__}: {error}"[:300], once=True)
            return
        for key, (written_ns, why) in refused.items():
            self._read[key] = written_ns
            self._recording.miss(WHAT, why, key, once=True)
        if not found:
            return
        keys = {files.global_rank: key for key, files in known.items()}
        for key, (dump, path) in found.items():
            self._read[key] = dump.taken_ns
            self._dumps[dump.global_rank] = dump
            self._paths[dump.global_rank] = path
        offset = self._recording.header.wall_offset_ns
        for event in events_of_dumps(self._dumps.values(), self._paths, keys, offset):
            self._recording.record(event, keep=True)
        self._on_news()

    def scan_soon(self) -> None:
        """A process has ended: its watchdog may have ended it, and left a dump."""
        self._scan_at = 0.0

    def close(self) -> None:
        """Cancels the scan that is under way; nothing of it is recorded."""
        if self._scanning is not None:
            self._scanning.cancel()


def _scan(
    known: Mapping[str, RecorderFiles], read: Mapping[str, int]
) -> tuple[dict[str, tuple[RankDump, str]], dict[str, tuple[int, str]]]:
    """By process: new dumps with their paths, and why others cannot be read. Runs in a thread."""
    found: dict[str, tuple[RankDump, str]] = {}
    refused: dict[str, tuple[int, str]] = {}
    for key, files in known.items():
        if (left := newest_dump(files, read.get(key, 0))) is None:
            continue
        try:
            found[key] = read_left_dump(files.global_rank, left), left.path
        except Unreadable as error:
            refused[key] = left.written_wall_ns, str(error)
    return found, refused
