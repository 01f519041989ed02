"""Takes in the dumps and lines that torch's watchdog writes, and asks it for a dump where no agent could give it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder_files import Unreadable, events_of_dumps, read_left_dump
from distwatch.dumps.watchdog_lines import WrittenLog, events_of_watchdog
from distwatch.observer.background import in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.tracking import Tracked
from distwatch.probes.output_files import OutputFile, output_files, read_tail
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
        self._logs: dict[str, OutputFile] = {}
        """By path."""
        self._logs_read: dict[str, int] = {}
        self._are_logs_due = False
        self._agents: Container[str] = ()
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
        self._agents = agents
        for tracked in processes:
            known = tracked.key in self._files or tracked.ended or len(self._files) >= _MOST
            if tracked.role in _ROLES and not known:
                self._files[tracked.key] = recorder_files_of(tracked.pid, time.time_ns())
                self._note_logs(tracked)
        if why and now >= self._ask_at:
            self._ask_at = now + PAUSES_S[min(self._asked, len(PAUSES_S) - 1)]
            self._asked += 1
            self._are_logs_due = True
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
        keys = {files.global_rank: key for key, files in known.items()}
        for key, (dump, path) in found.items():
            self._read[key] = dump.taken_ns
            self._dumps[dump.global_rank] = dump
            self._paths[dump.global_rank] = path
        offset = self._recording.header.wall_offset_ns
        events = events_of_dumps(self._dumps.values(), self._paths, keys, offset) if found else []
        if self._are_logs_due and self._logs:
            self._are_logs_due = False
            # An agent and a dump say more than the lines about it.
            unsaid = {
                rank: key
                for rank, key in keys.items()
                if rank not in self._dumps and key not in self._agents
            }
            logs = await in_background(_changed, self._logs, self._logs_read, within_s=None)
            events += events_of_watchdog(logs, unsaid, offset)
        for event in events:
            self._recording.record(event, keep=True)
        if events:
            self._on_news()

    def _note_logs(self, tracked: Tracked) -> None:
        if (files := self._files[tracked.key]) is None:
            return
        for log in output_files({files.global_rank: tracked.pid}, 0):
            shared = log.path in self._logs
            self._logs[log.path] = OutputFile(path=log.path, rank=None if shared else log.rank)

    def scan_soon(self) -> None:
        """A process has ended: its watchdog may have ended it, and left a dump."""
        self._scan_at, self._are_logs_due = 0.0, True

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


def _changed(logs: Mapping[str, OutputFile], read: dict[str, int]) -> list[WrittenLog]:
    """The ends of these logs, where one of them has changed since it was read. Runs in a thread."""
    written = {path: os.stat(path).st_mtime_ns for path in list(logs) if os.path.isfile(path)}
    if all(read.get(path) == at_ns for path, at_ns in written.items()):
        return []
    read.update(written)
    found: list[WrittenLog] = []
    for path, at_ns in written.items():
        try:
            content = read_tail(path)
        except OSError:
            continue
        rank = logs[path].rank
        found.append(WrittenLog(path=path, rank=rank, written_wall_ns=at_ns, content=content))
    return found
