"""Which folder of a run's name belongs to the current launch, and whether a run has ended here."""

from __future__ import annotations

import contextlib
import os
import time

from distwatch.observer.journals.reading import any_alive
from distwatch.observer.journals.segments import read_header, read_journal
from distwatch.observer.lock import lock_holder
from distwatch.runfolder import RunFolder, generations, host_name, next_generation
from distwatch.state import events as ev
from distwatch.state.events import decode_event

SILENT_FOR_S = 120.0
"""A run whose observer was killed counts as ended after this: a new observer would have come."""


def folder_of_launch(folders: str, name: str, began_ns: int) -> RunFolder:
    """The newest folder of that name; a new one if that run ended before this launch began.

    Args:
        began_ns: when the launch began, by this host's wall clock, like file times.

    Raises:
        OSError: the folder cannot be created.
    """
    found = generations(folders, name)
    # A later write belongs to this launch, even if its ranks on this node have ended.
    if found and (last_written_ns(found[-1]) >= began_ns or not is_over(found[-1])):
        return found[-1]
    folder = next_generation(folders, name)
    folder.create()
    return folder


def is_over(folder: RunFolder) -> bool:
    """Whether no process runs there and its observer has ended, or has been silent for long."""
    if lock_holder(folder) is not None or any_alive(folder):
        return False
    silent_s = (time.time_ns() - last_written_ns(folder)) / 1e9
    return silent_s > SILENT_FOR_S or _has_ended(folder)


def last_written_ns(folder: RunFolder) -> int:
    """The wall-clock time of the last record on disk, else of the folder; 0 if it is gone."""
    times = [0]
    for path in _journals(folder) or [folder.path]:
        with contextlib.suppress(OSError):
            times.append(os.stat(path).st_mtime_ns)
    return max(times)


def _has_ended(folder: RunFolder) -> bool:
    """Whether this host's last observer recorded its end; a killed one does not."""
    last: tuple[int, bool] = (0, False)
    for path in _journals(folder):
        header = read_header(path)
        if header is None or header.host != host_name():
            continue
        if not header.stream.startswith("observer:"):
            continue
        with contextlib.suppress(OSError):
            contents = read_journal(path)
            for record in contents.records[-1:] if contents else ():
                ended = isinstance(decode_event(record.payload), ev.ObserverEnded)
                last = max(last, (record.time_ns + header.wall_offset_ns, ended))
    return last[1]


def _journals(folder: RunFolder) -> list[str]:
    return [folder.journal(stem) for stem in folder.stems(".journal")]
