"""Copies of other hosts' journals in the root's run folder, frame by frame."""

from __future__ import annotations

import contextlib
import re
import resource
import threading
from collections import OrderedDict
from collections.abc import Set

from distwatch.observer.journals.recording import SIZE_LIMIT
from distwatch.observer.journals.segments import LIMIT, Segment, read_header, read_journal
from distwatch.observer.link.messages import cursor_key
from distwatch.runfolder import RunFolder
from distwatch.state.frames import FileHeader, Record, process_key

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_SALT = 1 << 32
_OBSERVER = "observer:"


def is_host_name(name: str) -> bool:
    """Whether a name from the network may be part of a file name."""
    return _HOST.fullmatch(name) is not None


def objection_to(header: FileHeader, host: str) -> str:
    """Why a leaf of that host cannot have such a stream; '' where it can."""
    if header.host != host or not is_host_name(host):
        return f"a stream of host {header.host[:80]!r} from a leaf on {host}"
    numbers = (header.pid, header.start_ticks, header.salt, header.wall_offset_ns)
    if min(numbers[:3]) < 0 or header.salt >= _SALT or max(map(abs, numbers)) >= 1 << 63:
        return "a stream whose numbers are out of range"
    if len(header.boot_id) > 64:
        return "a stream whose boot id is too long"
    key = process_key(host, header.pid, header.start_ticks)
    if header.stream not in (key, f"{_OBSERVER}{key}#{header.salt:08x}"):
        return f"a stream named {header.stream[:80]!r} of process {key}"
    return ""


OPEN_AT_ONCE = 256
"""Ten thousand ranks have ten thousand files: more than a process may keep open."""
_OPEN_MOST = 4096
_FILES_WANTED = 65_536


def raise_file_limit() -> None:
    """Lets this process open as many files as it may: a thousand links alone reach the usual limit of 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _FILES_WANTED)
    if 0 <= soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_at_once() -> int:
    """Opening a file again costs more than a record: each host's observer has one that is written to always."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(OPEN_AT_ONCE, min(_OPEN_MOST, soft // 8))


class Mirror:
    """Appends the records that leaves send; does not write again what is on disk."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._open_at_once = _open_at_once()
        self._segments: dict[str, Segment] = {}
        self._open: OrderedDict[str, Segment] = OrderedDict()
        """The segments written to last, the newest at the end."""
        self._newest: dict[str, dict[str, int]] = {}
        """By host, the newest record on disk of each of its streams, as far as that is known."""
        self._unread: dict[str, list[str]] | None = None
        """The files of an earlier root that were not read yet, by the hosts whose they may be."""
        self._reading = threading.Lock()

    def cursors(self, hosts: Set[str]) -> dict[str, int]:
        """The newest record on disk of each stream of these hosts. May read files, each once: call it
        in a thread."""
        with self._reading:
            if self._unread is None:
                self._unread = self._files()
            for path in {path for host in hosts for path in self._unread.pop(host, ())}:
                self._read(path, hosts)
        found: dict[str, int] = {}
        for host in hosts:
            found.update(self._newest.get(host, {}))
        return found

    def _files(self) -> dict[str, list[str]]:
        # A listing for each host would be a million names where a thousand hosts connect at once.
        found: dict[str, list[str]] = {}
        for stem in self._folder.stems(".journal"):
            for host in _hosts_in(stem):
                found.setdefault(host, []).append(self._folder.journal(stem))
        return found

    def _read(self, path: str, hosts: Set[str]) -> None:
        header = read_header(path)
        if header is None or header.host not in hosts:
            return
        with contextlib.suppress(OSError):
            if contents := read_journal(path):
                self._note(header, contents.last_seq)

    def _note(self, header: FileHeader, seq: int) -> None:
        known, key = self._newest.setdefault(header.host, {}), cursor_key(header)
        known[key] = max(known.get(key, 0), seq)

    def keep(self, header: FileHeader, records: list[Record]) -> None:
        """Writes the records that are new.

        Raises:
            OSError: the disk refuses; then nothing of this call is on disk.
        """
        key = cursor_key(header)
        segment = self._segments.get(key)
        if segment is None:
            mine = header.stream.startswith(_OBSERVER)
            # An observer's journal ends at its limit and never wraps.
            limit = 2 * SIZE_LIMIT if mine else LIMIT
            segment = Segment(self._folder.journal(_stem(header)), header, limit=limit)
            self._segments[key] = segment
        self._open[key] = segment
        self._open.move_to_end(key)
        try:
            segment.append(records)
        except OSError:
            self._open.pop(key)
            self._segments.pop(key).close()
            raise
        self._note(header, segment.last_seq)
        if len(self._open) > self._open_at_once:
            self._open.popitem(last=False)[1].close()

    def flush(self) -> None:
        """Flushes the open segments to disk."""
        for segment in self._open.values():
            segment.flush()

    def close(self) -> None:
        for segment in self._open.values():
            segment.close()
        self._open.clear()
        self._segments.clear()


def _hosts_in(stem: str) -> Set[str]:
    """Every name that may be the host's in the name of a file: a host's name may have hyphens, too."""
    name = stem.removeprefix("observer-")
    return {text[:at] for text in (stem, name) for at, one in enumerate(text) if one == "-"}


def _stem(header: FileHeader) -> str:
    place = f"{header.host}-{header.pid}"
    if header.stream.startswith(_OBSERVER):
        return f"observer-{place}-{header.start_ticks}-{header.salt:08x}"
    return place
