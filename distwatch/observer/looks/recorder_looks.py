"""Takes in the dumps and lines that torch's watchdog writes, and asks it for a dump where no agent could give it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder_files import Unreadable, events_of_dumps, read_left_dump
from distwatch.dumps.watchdog_lines import WrittenLog, events_of_aborts, events_of_watchdog
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
from distwatch.state.events import ErrorFileRead, RecorderFileRead

SCAN_EVERY_S = 2.0
READ_WITHIN_S = 2.0
"""For the last words of an aborted process: its verdict is written down after them."""
PAUSES_S = (10.0, 30.0, 60.0)
"""Between the requests for a dump: a dump costs its rank tens of milliseconds."""
_ROLES = ("rank", "agent", "other")
_MOST = 1024
WHAT = "flight recorder file"


class RecorderLooks:
    """One scan at a time, in a thread of its own: a home folder may be on a network that hangs."""

    def __init__(self, recording: Recording, on_news: Callable[[], None] = lambda: None) -> None:
        """`on_news` is called when something was found."""
        self._recording = recording
        self._on_news = on_news
        self._new: dict[str, int] = {}
        """Pids of processes whose environment is not read yet."""
        self._files: dict[str, RecorderFiles] = {}
        self._read: dict[str, int] = {}
        """By process, when its newest dump that was read was written (wall clock)."""
        self._damaged: dict[str, int] = {}
        self._dumps: dict[int, RankDump] = {}
        self._paths: dict[int, str] = {}
        self._logs: dict[str, OutputFile] = {}
        """By path."""
        self._outputs: dict[str, tuple[str, ...]] = {}
        """By process, the paths of its logs."""
        self._aborted: set[str] = set()
        self._aborts_read: set[str] = set()
        self._logs_read: dict[str, int] = {}
        self._are_logs_due = self._is_request_due = False
        self._known: set[str] = set()
        self._agents: Container[str] = ()
        self._scan_at = self._ask_at = self._aborted_at = 0.0
        self._asked = 0
        self._scanning: asyncio.Task[None] | None = None

    @property
    def reads_abort(self) -> bool:
        """Whether the log of a process is being read that SIGABRT ended: its last words may excuse it."""
        return bool(self._aborted) and time.monotonic() < self._aborted_at + READ_WITHIN_S

    def read_aborts(self, keys: Iterable[str]) -> None:
        """The next scan, at once, reads the logs of these processes, which SIGABRT ended without an exception."""
        if new := {key for key in keys if key in self._outputs} - self._aborts_read - self._aborted:
            self._aborted |= new
            self._aborted_at = time.monotonic()
            self._scan_at = 0.0

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
            is_new = tracked.key not in self._known and len(self._known) < _MOST
            if tracked.role in _ROLES and is_new and not tracked.ended:
                self._known.add(tracked.key)
                self._new[tracked.key] = tracked.pid
                self._scan_at = 0.0
        if why and now >= self._ask_at:
            self._ask_at = now + PAUSES_S[min(self._asked, len(PAUSES_S) - 1)]
            self._asked += 1
            self._are_logs_due = self._is_request_due = True
            self._scan_at = 0.0
        if now < self._scan_at or (self._scanning is not None and not self._scanning.done()):
            return
        self._scan_at = now + SCAN_EVERY_S
        self._scanning = asyncio.create_task(self.scan())

    async def scan(self) -> None:
        """Reads what is new; returns when that is recorded."""
        try:
            await self._learn()
            if self._is_request_due:
                self._is_request_due = False
                others = [one for key, one in self._files.items() if key not in self._agents]
                await in_background(_ask_all, others, within_s=None)
            events: list[RecorderFileRead | ErrorFileRead] = [
                *await self._read_aborts(), *await self._read_dumps(), *await self._read_logs()
            ]  # fmt: skip
        except Exception as error:
            self._recording.miss(WHAT, f"{type(error).__name__}: {error}"[:300], once=True)
            return
        for event in events:
            self._recording.record(event, keep=True)
        if events:
            self._on_news()

    async def _learn(self) -> None:
        """Where new processes leave their dumps and lines."""
        new, self._new = self._new, {}
        learned = await in_background(_learn, new, within_s=None) if new else {}
        for key, (files, logs) in learned.items():
            self._files[key] = files
            # An earlier start of this rank says nothing of the new one.
            self._dumps.pop(files.global_rank, None)
            self._outputs[key] = tuple(log.path for log in logs)
            for log in logs:
                shared = log.path in self._logs
                self._logs[log.path] = OutputFile(path=log.path, rank=None if shared else log.rank)

    async def _read_dumps(self) -> list[RecorderFileRead]:
        found, refused = await in_background(
            _scan, dict(self._files), dict(self._read), within_s=None
        )
        for key, (written_ns, why) in refused.items():
            # It may be under way: it is damaged if it stays so.
            if self._damaged.get(key) == written_ns:
                self._read[key] = written_ns
                self._recording.miss(WHAT, why, key, once=True)
            self._damaged[key] = written_ns
        for key, (dump, path) in found.items():
            self._read[key] = dump.taken_ns
            self._dumps[dump.global_rank] = dump
            self._paths[dump.global_rank] = path
        if not found:
            return []
        offset = self._recording.header.wall_offset_ns
        return events_of_dumps(self._dumps.values(), self._paths, self._keys(), offset)

    async def _read_aborts(self) -> list[ErrorFileRead]:
        """What the logs of aborted processes say last, once a process."""
        aborted = self._aborted - self._aborts_read
        if not aborted:
            return []
        self._aborts_read |= aborted
        keys = {self._files[key].global_rank: key for key in aborted}
        paths = {path for key in aborted for path in self._outputs[key]}
        writers = {
            path: frozenset(
                self._files[key].global_rank for key, own in self._outputs.items() if path in own
            )
            for path in sorted(paths)
        }
        try:
            logs = await in_background(_tails, writers, within_s=READ_WITHIN_S)
        except asyncio.TimeoutError:
            logs = []
        finally:
            self._aborted -= aborted
        return events_of_aborts(logs, keys)

    async def _read_logs(self) -> list[RecorderFileRead]:
        if not self._are_logs_due or not self._logs:
            return []
        self._are_logs_due = False
        # An agent and a dump say more than the lines about it.
        unsaid = {
            rank: key
            for rank, key in self._keys().items()
            if rank not in self._dumps and key not in self._agents
        }
        logs = await in_background(_changed, self._logs, self._logs_read, within_s=None)
        return events_of_watchdog(logs, unsaid, self._recording.header.wall_offset_ns)

    def _keys(self) -> dict[int, str]:
        return {files.global_rank: key for key, files in self._files.items()}

    def scan_soon(self) -> None:
        """A process has ended: its watchdog may have ended it, and left a dump."""
        self._scan_at, self._are_logs_due = 0.0, True

    def close(self) -> None:
        """Cancels the scan that is under way; nothing of it is recorded."""
        if self._scanning is not None:
            self._scanning.cancel()


def _learn(
    pids: Mapping[str, int],
) -> dict[str, tuple[RecorderFiles, list[OutputFile]]]:
    """By process, for ranks: what its environment and its descriptors say. Runs in a thread."""
    found: dict[str, tuple[RecorderFiles, list[OutputFile]]] = {}
    for key, pid in pids.items():
        if (files := recorder_files_of(pid, time.time_ns())) is not None:
            found[key] = files, output_files({files.global_rank: pid}, 0)
    return found


def _ask_all(ranks: Iterable[RecorderFiles]) -> None:
    for files in ranks:
        ask_for_dump(files)


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


def _tails(writers: Mapping[str, frozenset[int]]) -> list[tuple[bytes, frozenset[int]]]:
    """The end of each log that can be read, with the ranks that wrote to it. Runs in a thread."""
    found: list[tuple[bytes, frozenset[int]]] = []
    for path, ranks in writers.items():
        with contextlib.suppress(OSError):
            found.append((read_tail(path), ranks))
    return found


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
