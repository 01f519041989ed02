"""Frees memory that ended processes left behind, where no observer remains to do it.

Their last records are written to disk first. A process that may still write is left alone, even if
this machine's process table does not show it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from distwatch.foreign_files import open_ours
from distwatch.observer.journals.journal_intake import Followed, remove_if_empty
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.journals.rings import has_writer
from distwatch.observer.lock import free_lock, lock_holder, take_lock
from distwatch.runfolder import (
    RunFolder,
    boot_id,
    filesystem_of,
    host_name,
    is_alive,
    is_private,
    memory_place,
    root_in_memory,
)
from distwatch.state.frames import FileHeader

QUIET_S = 120.0
"""How long a run of another root is left alone: its launcher may be about to restart ranks."""
LOST_AFTER_S = 86400.0
"""A missing root may belong to another container that shares this memory."""


def sweep(root: str, watched: str = "") -> None:
    """Frees the memory of dead processes, in all runs of this user that have no observer.

    Args:
        root: the root of the caller's runs.
        watched: the path of a run whose observer frees memory itself.
    """
    for folder, place in _runs_in_memory(root):
        if folder.path == watched:
            continue
        with contextlib.suppress(OSError):
            if is_private(folder.path):
                _free(folder, place, root)
            elif not os.path.lexists(folder.path):
                _drop(folder, place)


def _runs_in_memory(root: str) -> Iterator[tuple[RunFolder, str]]:
    """Runs, and the folders of their rings."""
    # Anybody can create a folder with our name in /dev/shm, and links to any place in it.
    if is_private(memory_place()):
        for name in _names(memory_place()):
            for run in _names(f"{memory_place()}/{name}"):
                folder = RunFolder(f"{root_in_memory(name)}/{run}")
                yield folder, f"{memory_place()}/{name}/{run}"
    if filesystem_of(root) == "tmpfs":
        for folder in map(RunFolder, (f"{root}/{run}" for run in _names(root))):
            if folder.stems(".ring"):
                yield folder, folder.path


def _free(folder: RunFolder, place: str, root: str) -> None:
    """Writes the records of each dead process to disk, then frees its memory."""
    if any_alive(folder) or lock_holder(folder) is not None:
        return
    if os.path.dirname(folder.path) != root and _age_s(folder.path, place) < QUIET_S:
        return
    lock = take_lock(folder)
    if lock is None:
        return
    try:
        for stem in folder.stems(".ring", place):
            with contextlib.suppress(OSError):
                _free_process(folder, place, stem)
        _remove_strays(folder, place)
    finally:
        free_lock(lock)


def _free_process(folder: RunFolder, place: str, stem: str) -> None:
    try:
        followed = Followed(folder, stem, place)
    except ValueError:
        return _unlink_unwritten(f"{place}/{stem}.ring")  # its process wrote nothing
    try:
        if _is_over(followed.header, followed.ring.is_written()):
            followed.read(last_time=True)
            followed.read_pulse()
            followed.keep_pulse()
            followed.release()
    finally:
        followed.close()


def _drop(folder: RunFolder, place: str) -> None:
    """Frees the memory of a run that was removed from disk: there is nowhere to write its records."""
    if os.path.isdir(os.path.dirname(folder.path)) or _age_s(place) > LOST_AFTER_S:
        for stem in folder.stems(".ring", place):
            with contextlib.suppress(OSError):
                _unlink_unwritten(f"{place}/{stem}.ring")
        _remove_strays(folder, place)


def _remove_strays(folder: RunFolder, place: str) -> None:
    """Removes pulses and sockets in memory whose ring is gone."""
    if place == folder.path:
        return
    rings = set(folder.stems(".ring", place))
    for suffix in (".pulse", ".sock"):
        for stem in set(folder.stems(suffix, place)) - rings:
            with contextlib.suppress(OSError):
                os.unlink(f"{place}/{stem}{suffix}")
    remove_if_empty(place)


def _is_over(header: FileHeader, is_written: bool | None) -> bool:
    """Whether a ring's writer is certainly gone."""
    here = header.host == host_name()
    if here and header.boot_id == boot_id() and is_alive(header.pid, header.start_ticks):
        return False
    return here if is_written is None else not is_written


def _unlink_unwritten(path: str) -> None:
    descriptor = open_ours(path)
    try:
        if has_writer(descriptor) is False:
            os.unlink(path)
    finally:
        os.close(descriptor)


def _age_s(*places: str) -> float:
    """Seconds since something changed in these folders."""
    newest = 0.0
    for place in places:
        for path in (place, *(f"{place}/{name}" for name in _names(place))):
            with contextlib.suppress(OSError):
                newest = max(newest, os.lstat(path).st_mtime)
    return time.time() - newest


def _names(place: str) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []
