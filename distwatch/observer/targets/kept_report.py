"""The report on a run that has ended, beside its journals, so that it need not be judged again.

It counts only for exactly the files that it was made from, on the host that read them, and for the rules of
diagnosis that made it: anything else only costs time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from functools import cache
from typing import TypeVar

import msgspec

import distwatch
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.journals.sealed import UNREADABLE, read_sealed, write_sealed
from distwatch.report.document import Report
from distwatch.runfolder import RunFolder, host_name
from distwatch.state.finding import Finding
from distwatch.state.model import RunState

_MAGIC = b"distwatch report\n"
_READ = (".journal", ".pulse", ".start", ".ring")
"""The files of a run from which its state is read."""
_RULES = ("state", "diagnosis", "views", "report", "dumps", "observer/journals")
"""The parts of distwatch that a report depends on."""


class KeptReport(msgspec.Struct, frozen=True, gc=False):
    """A report, and what it was made from."""

    source: str
    report: Report


class _Verdict(msgspec.Struct, frozen=True, gc=False):
    findings: list[Finding]


class _KeptVerdict(msgspec.Struct, frozen=True, gc=False):
    """Of a kept report, what is not derived from the state anyway: a report tells of each rank."""

    source: str
    report: _Verdict


_Kept = TypeVar("_Kept", KeptReport, _KeptVerdict)


def path_of(folder: RunFolder) -> str:
    """Where the report of a run is kept."""
    return f"{folder.path}/report.checkpoint"


def read_kept(folder: RunFolder) -> Report | None:
    """The report on exactly these files by these rules; None where none is kept."""
    kept = _read(folder, KeptReport)
    return kept.report if kept is not None else None


def read_kept_findings(folder: RunFolder) -> list[Finding] | None:
    """As `read_kept`, but only its findings."""
    kept = _read(folder, _KeptVerdict)
    return kept.report.findings if kept is not None else None


def _read(folder: RunFolder, kind: type[_Kept]) -> _Kept | None:
    content = read_sealed(path_of(folder), _MAGIC, KeptReport)
    if content is None:
        return None
    try:
        kept = msgspec.msgpack.decode(content, type=kind)
    except UNREADABLE:
        return None
    return kept if kept.source == source_of(folder) else None


def keep(folder: RunFolder, source: str, report: Report) -> bool:
    """Keeps a report; False where the folder cannot be written, or it would not be read as it was.

    Args:
        source: as `source_of` said before the files were read.
    """
    kept = KeptReport(source, report)
    content = msgspec.msgpack.encode(kept)
    # A value of a type that its field does not name would lose what that type adds.
    if msgspec.msgpack.decode(content, type=KeptReport) != kept:
        return False
    return write_sealed(path_of(folder), _MAGIC, KeptReport, content)


def is_over(folder: RunFolder, state: RunState) -> bool:
    """Whether nothing but its files can change what is read of a run: here, none of its processes lives."""
    host = host_name()
    ended = all(
        process.ended_ns is not None for process in state.processes.values() if process.host == host
    )
    return ended and not any_alive(folder)


def source_of(folder: RunFolder) -> str:
    """What a report on this run is made from: its files as they are now, and the rules."""
    told = [host_name(), distwatch.__version__, *_rules()]
    for place in dict.fromkeys(place for place in (folder.path, folder.volatile) if place):
        told += sorted(_files_of(place))
    return f"{zlib.crc32(repr(told).encode()):08x} {len(told)}"


def _files_of(place: str) -> Iterator[str]:
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.endswith(_READ):
                    yield _told(entry)
    except OSError:
        return


def _told(entry: os.DirEntry[str]) -> str:
    status = entry.stat(follow_symlinks=False)
    return f"{entry.name} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


@cache
def _rules() -> tuple[str, ...]:
    """The files of code, so that a change in a checkout counts, too; in an archive, the version alone.

    Once in a process: it judges by the code that it has loaded, whatever becomes of the files.
    """
    package, told = os.path.dirname(distwatch.__file__), list[str]()
    for part in _RULES:
        for place, _, _ in os.walk(f"{package}/{part}"):
            with os.scandir(place) as entries:
                told += sorted(_told(one) for one in entries if one.name.endswith(".py"))
    return tuple(told)
