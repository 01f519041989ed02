"""Reads a run from what is on disk and in its rings, without touching either."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from distwatch.errors import PartialData
from distwatch.foreign_files import open_ours, read_ours
from distwatch.observer.journals.checkpoint import Checkpoint, ReadFile, has_grown
from distwatch.observer.journals.segments import Contents, read_header, read_journal
from distwatch.runfolder import RunFolder, host_name, is_alive
from distwatch.settings import read_settings
from distwatch.state import events as ev
from distwatch.state.bounds import whole_number
from distwatch.state.events import decode_event
from distwatch.state.frames import FileHeader, Record, process_key
from distwatch.state.identity import identify
from distwatch.state.pulse import FILE_SIZE, PAGE_SIZE, decode_operations, decode_page

_ATTACHED_LONGEST = 1 << 20
ROUTINE = frozenset(
    (
        ev.PulseRead, ev.ProcessSampled, ev.Ticked, ev.HostSampled, ev.DevicesSampled, ev.PortsSampled,
        ev.HostHeard,
    )
)  # fmt: skip
"""What comes all the time from a job in which nothing happens."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One event of one stream. `seq` 0: a live value, of which only the newest is known.

    `payload`: the event as bytes, if it arrived so; else empty.
    """

    header: FileHeader
    seq: int
    time_ns: int
    event: ev.Event
    payload: bytes = b""


def live_key(entry: Entry) -> object:
    """The subject of a live value: of each subject, only the newest value matters."""
    event = entry.event
    about = getattr(event, "process", None) or getattr(event, "host", "")
    return type(event), about, getattr(event, "what", "")


def require_records(folder: RunFolder) -> None:
    """Raises PartialData where `load_state` would; reads no more than it takes to know."""
    if not any(is_of_run(entry.event) for entry in _entries(folder)):
        raise nothing_in(folder)


def is_of_run(event: ev.Event) -> bool:
    """Whether it is: a damaged file is reported as an event, too, which is not."""
    return not isinstance(event, ev.NotObserved)


def nothing_in(folder: RunFolder) -> PartialData:
    """The error for a folder in which no record could be read."""
    return PartialData(
        f"{folder.path} holds no readable record",
        advice="Is it a run folder? `distwatch ps` lists them.",
    )


def read_entries(folder: RunFolder, *, ends: bool = False) -> list[Entry]:
    """All events of a run in order of time; unreadable parts are named by NotObserved events.

    Within a stream, times never go back: two threads of a process can take their times in one order
    and their places in the other, and the reducer would drop the earlier record if it came last.

    Args:
        ends: also report the ends of processes that no observer saw.
    """
    entries: list[Entry] = []
    newest: dict[str, int] = {}
    for entry in _entries(folder, ends=ends):
        stream, time_ns = entry.header.stream, entry.time_ns
        if entry.seq:
            time_ns = newest[stream] = max(newest.get(stream, 0), time_ns)
        entries.append(
            entry
            if time_ns == entry.time_ns
            else Entry(entry.header, entry.seq, time_ns, entry.event)
        )
    return sorted(entries, key=_by_time)


def _entries(folder: RunFolder, *, ends: bool = False) -> Iterator[Entry]:
    """Each stream's events in their order, one stream in memory at a time; then the rest by time."""
    reading = Reading(folder)
    seen = Ends()
    for header, records in reading.streams():
        for record in records:
            if (event := decode_event(record.payload)) is not None:
                entry = Entry(header, record.seq, record.time_ns, event)
                seen.note(entry)
                yield entry
    for entry in reading.rest():
        seen.note(entry)
        yield entry
    if ends:
        yield from seen.unseen()


def _by_time(entry: Entry) -> tuple[int, str, int]:
    return entry.time_ns, entry.header.stream, entry.seq


class Reading:
    """One reading of a run folder. Several files may hold one stream; each record counts once.

    Attributes:
        files: the journals that were read while it was settled, and those that need not be, as a
            checkpoint notes them.
        first_ns, newest_ns: the times of the first and the last record.
        is_settled: all records so far were in segments on disk, and each of these could be read. A ring
            changes, so what is in one is read last.
    """

    def __init__(self, folder: RunFolder, checkpoint: Checkpoint | None = None) -> None:
        """Leaves out what is in the checkpoint's files, which must be `still_holds`."""
        self._folder = folder
        self._headers: dict[str, FileHeader] = {}
        self._trouble: list[tuple[str, str]] = []
        self._known = {read.name: read for read in checkpoint.files} if checkpoint else {}
        self.files: list[ReadFile] = []
        self.is_settled = True
        self.first_ns = checkpoint.first_ns if checkpoint else 0
        self.newest_ns = checkpoint.newest_ns if checkpoint else 0

    def streams(
        self, is_wanted: Callable[[FileHeader], bool] = lambda _: True
    ) -> Iterator[tuple[FileHeader, list[Record]]]:
        """Each stream with its records in order, one stream in memory at a time."""
        paths: dict[str, list[str]] = {}
        for path in journal_paths(self._folder):
            known = self._known.get(os.path.basename(path))
            if known is not None and has_grown(known, path) is False:
                self._note(known)
                continue
            header = read_header(path)
            # A file without a header is opened once more, to find out what is wrong with it.
            if header is None or is_wanted(header):
                paths.setdefault(header.stream if header else path, []).append(path)
        for together in sorted(paths.values(), key=_has_ring):
            records: dict[int, Record] = {}
            found: FileHeader | None = None
            for path in together:
                contents = self._contents(path)
                if contents is not None:
                    found = found or contents.header
                    for record in contents.records:
                        records.setdefault(record.seq, record)
            if found is not None:
                self._headers[found.stream] = found
                times = [record.time_ns for record in records.values()]
                self.newest_ns = max([self.newest_ns, *times])
                firsts = [time_ns for time_ns in (self.first_ns, *times) if time_ns]
                self.first_ns = min(firsts, default=0)
                yield found, [records[seq] for seq in sorted(records)]

    def rest(self) -> list[Entry]:
        """What is in no journal, in order of time; call it after all streams were read."""
        entries = read_pulses(self._folder, self._headers)
        entries += _starts(self._folder, self.newest_ns)
        host = host_name()
        note = _reader(host)
        entries += [
            Entry(note, 0, self.newest_ns, ev.NotObserved(host=host, what=name, why=why))
            for name, why in self._trouble
        ]
        if any_alive(self._folder):
            entries.append(Entry(note, 0, time.monotonic_ns(), ev.Ticked(host=host)))
        return sorted(entries, key=_by_time)

    def _note(self, read: ReadFile) -> None:
        if self.is_settled:
            self.files.append(read)
        self._headers[read.header.stream] = read.header
        if read.damaged:
            self._trouble.append((read.name, f"{read.damaged} damaged bytes were skipped"))

    def _contents(self, path: str) -> Contents | None:
        name = os.path.basename(path)
        known = self._known.get(name)
        self.is_settled = self.is_settled and name.endswith(".journal")
        try:
            status = os.stat(path, follow_symlinks=False)
            contents = read_journal(path, known)
        except FileNotFoundError:
            return None  # a ring whose process has ended since we listed it
        except OSError as error:
            self.is_settled = False
            self._trouble.append((name, f"not readable: {error.strerror or error}"))
            return None
        if contents is None:
            self.is_settled = False
            self._trouble.append((name, "its header is damaged, so it cannot be read"))
        else:
            self._note(
                ReadFile(
                    name=name, inode=status.st_ino, size=status.st_size, mtime_ns=status.st_mtime_ns,
                    upto=contents.end, header=contents.header, damaged=contents.damaged,
                )
            )  # fmt: skip
        return contents


def _has_ring(paths: list[str]) -> bool:
    return any(path.endswith(".ring") for path in paths)


class Ends:
    """Processes of this node that are gone without an observer having seen their end.

    How they ended is not observed, so it does not count as a crash.
    """

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self._host = host_name()
        self.ended: set[str] = set(checkpoint.ended if checkpoint else ())
        self.known: set[str] = set(checkpoint.known if checkpoint else ())
        self.newest_ns = checkpoint.host_ns if checkpoint else 0

    def note(self, entry: Entry) -> None:
        event, stream = entry.event, entry.header.stream
        if isinstance(event, ev.ExitSeen):
            self.ended.add(event.process)
        key = event.process if isinstance(event, ev.ProcessSighted | ev.PulseRead) else ""
        if not key and not stream.startswith(("observer:", "reader:")):
            key = stream
        if entry.header.host == self._host:
            self.newest_ns = max(self.newest_ns, entry.time_ns)
            if key:
                self.known.add(key)

    def unseen(self) -> list[Entry]:
        """An end of each of them, at the newest time that is known: they may have lived until then."""
        why = "it is gone, and no observer saw how it ended"
        return [
            Entry(_reader(self._host), 0, self.newest_ns, event)
            for key in sorted(self.known - self.ended)
            if not lives(key)
            for event in (
                ev.ExitSeen(process=key, how="gone when its run was read"),
                ev.NotObserved(host=self._host, what="end", why=why, process=key),
            )
        ]


def lives(key: str) -> bool:
    """Whether the process with this key still runs on this host."""
    name, _, began = key.rpartition(".")
    pid, ticks = whole_number(name.rpartition("-")[2]), whole_number(began)
    return pid is not None and ticks is not None and is_alive(pid, ticks)


def write_attached(folder: RunFolder, keys: Iterable[str]) -> None:
    """Notes the processes that this run is about, in which no agent is."""
    descriptor = open_ours(folder.attached, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(descriptor, "".join(f"{key}\n" for key in keys).encode())
    finally:
        os.close(descriptor)


def attached_keys(folder: RunFolder) -> list[str]:
    """Those keys; empty where agents made the run."""
    try:
        return read_ours(folder.attached, _ATTACHED_LONGEST).decode("utf-8", "replace").split()
    except OSError:
        return []


def journal_paths(folder: RunFolder) -> list[str]:
    """The rings, then the segments on disk, rotated ones first.

    In this order nothing is missed: a ring that disappears meanwhile is whole in its segment.
    """
    volatile = folder.volatile
    rings = (
        [f"{volatile}/{stem}.ring" for stem in folder.stems(".ring", volatile)] if volatile else []
    )
    segments = [f"{folder.path}/{stem}.journal" for stem in folder.stems(".journal")]
    return rings + sorted(segments, key=lambda path: (not path.endswith(".old.journal"), path))


def any_alive(folder: RunFolder) -> bool:
    """Whether some process of the run still runs on this node."""
    host = host_name()
    return any(
        is_alive(int(start.get("pid", 0)), int(start.get("ticks", 0)))
        for start in folder.starts()
        if start.get("host") == host
    )


def _reader(host: str) -> FileHeader:
    return FileHeader(
        stream=f"reader:{host}",
        host=host,
        pid=0,
        start_ticks=0,
        boot_id="",
        wall_offset_ns=0,
        salt=0,
    )


def read_pulses(folder: RunFolder, headers: dict[str, FileHeader]) -> list[Entry]:
    """The last pulse of each process whose journal is known, from tmpfs or disk."""
    by_stem: dict[str, FileHeader] = {}
    for header in headers.values():
        by_stem[f"{header.host}-{header.pid}"] = header
        by_stem[f"{header.host}-{header.pid}-{header.start_ticks}"] = header
    # As of journals: the live one goes once it is kept.
    places = dict.fromkeys(place for place in (folder.volatile, folder.path) if place)
    entries: list[Entry] = []
    for place in places:
        for stem in folder.stems(".pulse", place):
            owner = by_stem.get(stem)
            read = read_pulse(f"{place}/{stem}.pulse", owner.stream) if owner else None
            if owner is not None and read is not None:
                times = [
                    read.pulse.beat_ns,
                    *(op.left_ns or op.entered_ns for op in read.operations),
                ]
                entries.append(Entry(owner, 0, max(times), read))
    return entries


def read_pulse(path: str, process: str) -> ev.PulseRead | None:
    """A pulse file as an event; None where it is torn, empty or another user's."""
    try:
        content = read_ours(path, FILE_SIZE)
    except OSError:
        return None
    return parse_pulse(content, process)


def parse_pulse(content: bytes, process: str) -> ev.PulseRead | None:
    """As `read_pulse`, from bytes. Operations are readable even if the page is torn."""
    pulse, operations = decode_page(content[:PAGE_SIZE]), decode_operations(content)
    if pulse is None and not operations:
        return None
    return ev.PulseRead(process=process, pulse=pulse or ev.Pulse(), operations=operations)


def _starts(folder: RunFolder, newest: int) -> list[Entry]:
    """Processes with a start record: some end before their agent starts."""
    entries: list[Entry] = []
    for start in folder.starts():
        sighted = sighting_of_start(start)
        if sighted is not None:
            path = Path(folder.path, f"{sighted.host}-{sighted.pid}.start")
            offset = time.time_ns() - time.monotonic_ns()
            try:
                began = int(path.stat().st_mtime_ns) - offset
            except OSError:
                began = newest
            entries.append(Entry(_reader(sighted.host), 0, max(began, 1), sighted))
    return entries


def sighting_of_start(start: dict[str, str]) -> ev.ProcessSighted | None:
    """A start record as a sighting; None where it is damaged."""
    try:
        host, pid, ticks = start["host"], int(start["pid"]), int(start["ticks"])
        return ev.ProcessSighted(
            process=process_key(host, pid, ticks),
            host=host,
            pid=pid,
            start_ticks=ticks,
            ppid=int(start["ppid"]),
            role=start["role"],
            identity=identify(start),
            instrumented=True,
            deadlines=read_settings(start).deadlines if "DISTWATCH_DEADLINES" in start else {},
        )
    except (KeyError, ValueError):
        return None
