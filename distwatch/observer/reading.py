"""Reads a run from what is on disk and in its rings, without touching either."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from distwatch.errors import PartialData
from distwatch.observer.rings import open_private
from distwatch.observer.segments import read_journal
from distwatch.runfolder import RunFolder, is_alive
from distwatch.state import events as ev
from distwatch.state.events import decode_event
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import identify
from distwatch.state.model import RunState
from distwatch.state.pulse import FILE_SIZE, PAGE_SIZE, decode_operations, decode_page
from distwatch.state.reducer import reduce


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One event of one stream. `seq` 0: never journaled, only its newest value is known."""

    header: FileHeader
    seq: int
    time_ns: int
    event: ev.AnyEvent | ev.UnknownEvent


def load_state(folder: RunFolder) -> RunState:
    """The run as far as anything of it was recorded, alive or dead.

    Raises:
        PartialData: not one record could be read.
    """
    state = RunState(run_id=folder.run_id)
    entries = read_entries(folder, ends=True)
    for entry in entries:
        reduce(state, entry.header, entry.seq, entry.time_ns, entry.event)
    # That a file is damaged is a word about the run, and not yet one from it.
    if all(isinstance(entry.event, ev.NotObserved) for entry in entries):
        raise PartialData(
            f"{folder.path} holds no readable record",
            advice="Is it a run folder? `distwatch ps` lists them.",
        )
    return state


def read_entries(folder: RunFolder, *, ends: bool = False) -> list[Entry]:
    """All events of a run in order of time; unreadable parts are named by NotObserved events.

    Args:
        ends: also say of processes that are gone that they are, where no observer saw it.
    """
    by_stream: dict[str, dict[int, Entry]] = {}
    headers: dict[str, FileHeader] = {}
    trouble: list[tuple[str, str]] = []
    for path in journal_paths(folder):
        _read_into(path, by_stream, headers, trouble)
    entries = [entry for stream in by_stream.values() for entry in in_order(stream)]
    newest = max((entry.time_ns for entry in entries), default=0)
    entries += read_pulses(folder, headers)
    entries += _starts(folder, newest)
    entries += _unseen_ends(entries) if ends else []
    host = os.uname().nodename
    note = _reader(host)
    entries += [
        Entry(note, 0, newest, ev.NotObserved(host=host, what=name, why=why))
        for name, why in trouble
    ]
    if any_alive(folder):
        entries.append(Entry(note, 0, time.monotonic_ns(), ev.Ticked(host=host)))
    return sorted(entries, key=lambda entry: (entry.time_ns, entry.header.stream, entry.seq))


def in_order(stream: dict[int, Entry]) -> list[Entry]:
    """A stream by sequence number, with times that never go back.

    Two threads of a process can take their times in one order and their places in the other: to
    sort by time alone would fold the later record first, and the reducer would drop the earlier.
    """
    ordered: list[Entry] = []
    newest = 0
    for seq in sorted(stream):
        entry = stream[seq]
        newest = max(newest, entry.time_ns)
        ordered.append(
            entry if entry.time_ns == newest else Entry(entry.header, seq, newest, entry.event)
        )
    return ordered


def _unseen_ends(entries: list[Entry]) -> list[Entry]:
    """Processes of this node that are gone although no observer saw their end.

    How they ended is not observed, which is no reason to call it a crash.
    """
    host = os.uname().nodename
    ended = {entry.event.process for entry in entries if isinstance(entry.event, ev.ExitSeen)}
    last: dict[str, int] = {}
    for entry in entries:
        event = entry.event
        key = event.process if isinstance(event, ev.ProcessSighted | ev.PulseRead) else ""
        if not key and not entry.header.stream.startswith(("observer:", "reader:")):
            key = entry.header.stream
        if key and entry.header.host == host and key not in ended:
            last[key] = max(last.get(key, 0), entry.time_ns)
    why = "it is gone, and no observer was there to see how it ended"
    return [
        Entry(
            _reader(host),
            0,
            time_ns,
            ev.NotObserved(host=host, what="end", why=why, process=key),
        )
        for key, time_ns in last.items()
        if not _lives(key)
    ]


def _lives(key: str) -> bool:
    name, _, ticks = key.rpartition(".")
    pid = name.rpartition("-")[2]
    return pid.isdigit() and ticks.isdigit() and is_alive(int(pid), int(ticks))


def journal_paths(folder: RunFolder) -> list[str]:
    """Segments on disk, rotated ones first, then rings."""
    volatile = folder.volatile
    segments = [f"{folder.path}/{stem}.journal" for stem in folder.stems(".journal")]
    rings = (
        [f"{volatile}/{stem}.ring" for stem in folder.stems(".ring", volatile)] if volatile else []
    )
    return sorted(segments, key=lambda path: (not path.endswith(".old.journal"), path)) + rings


def any_alive(folder: RunFolder) -> bool:
    """Whether some process of the run still runs on this node."""
    host = os.uname().nodename
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


def _read_into(
    path: str,
    by_stream: dict[str, dict[int, Entry]],
    headers: dict[str, FileHeader],
    trouble: list[tuple[str, str]],
) -> None:
    name = os.path.basename(path)
    try:
        contents = read_journal(path)
    except OSError as error:
        trouble.append((name, f"not readable: {error.strerror or error}"))
        return
    if contents is None:
        trouble.append((name, "its header is damaged: nothing of it can be read"))
        return
    if contents.damaged:
        trouble.append((name, f"{contents.damaged} bytes of it are damaged and were skipped"))
    headers[contents.header.stream] = contents.header
    stream = by_stream.setdefault(contents.header.stream, {})
    for record in contents.records:
        event = decode_event(record.payload)
        if event is not None and record.seq not in stream:
            stream[record.seq] = Entry(contents.header, record.seq, record.time_ns, event)


def read_pulses(folder: RunFolder, headers: dict[str, FileHeader]) -> list[Entry]:
    """The last pulse of each process whose journal is known; live and kept ones alike."""
    by_stem: dict[str, FileHeader] = {}
    for header in headers.values():
        by_stem[f"{header.host}-{header.pid}"] = header
        by_stem[f"{header.host}-{header.pid}-{header.start_ticks}"] = header
    places = dict.fromkeys(place for place in (folder.path, folder.volatile) if place)
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
    """A pulse file as an event; None where it is torn, empty or not ours."""
    try:
        with os.fdopen(open_private(path), "rb") as file:
            content = file.read(FILE_SIZE)
    except OSError:
        return None
    return parse_pulse(content, process)


def parse_pulse(content: bytes, process: str) -> ev.PulseRead | None:
    """As `read_pulse`, of bytes at hand. Operations survive a page that is torn."""
    pulse, operations = decode_page(content[:PAGE_SIZE]), decode_operations(content)
    if pulse is None and not operations:
        return None
    return ev.PulseRead(process=process, pulse=pulse or ev.Pulse(), operations=operations)


def _starts(folder: RunFolder, newest: int) -> list[Entry]:
    """Processes that left a start record: some end before their agent ever starts."""
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
        )
    except (KeyError, ValueError):
        return None
