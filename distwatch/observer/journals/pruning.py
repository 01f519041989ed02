"""The runs under a root, and which of them are removed: old ones, and the oldest if all take too much."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator

from distwatch.observer.journals.journal_intake import remove_if_empty
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.journals.segments import read_header
from distwatch.observer.lock import lock_holder, take_lock
from distwatch.runfolder import RunFolder, filesystem_of, host_name, is_private
from distwatch.settings import Keep

INCIDENTS_STAY_S = 14 * 86400.0
"""How long an incident keeps a run for which there is no limit of age."""
JOINED_WITHIN_S = 600.0
"""A launcher that restarts its ranks may still join a run that ended this recently."""
TMPFS_SHARE = 4
"""All runs together take at most this fraction (1/N) of a tmpfs, which is memory."""
_FAR_RUN_ENDED_S = 86400.0


def run_folders(root: str) -> list[RunFolder]:
    """The folders under the root that hold part of a run."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    folders = [RunFolder(os.path.join(root, name)) for name in names]
    return [folder for folder in folders if is_run(folder)]


def is_run(folder: RunFolder) -> bool:
    """Whether a folder holds part of a run."""
    return bool(folder.stems(".start") or folder.stems(".journal") or folder.stems(".ring"))


def is_open(folder: RunFolder) -> bool:
    """Whether a process of the run, or its observer, runs on this node."""
    return any_alive(folder) or lock_holder(folder) is not None


def prune(root: str, keep: Keep) -> list[str]:
    """Removes ended runs that are too old, then the oldest ones while all runs take too much space.

    A run with an incident stays until the limit of age, however much space all runs take.

    Returns:
        The folders that were removed.
    """
    most, taken = _most_bytes(root, keep), 0
    ended: list[tuple[float, int, RunFolder]] = []
    for folder in run_folders(root):
        with contextlib.suppress(OSError):
            size = sum(status.st_size for status in _files(folder.path))
            taken += size
            if _is_recorded(folder) and not is_open(folder) and not reason_to_keep(folder):
                ended.append((age_s(folder), size, folder))
    removed: list[str] = []
    for age, size, folder in sorted(ended, key=lambda run: -run[0]):
        too_old = age > keep.age_s
        too_much = most is not None and taken > most and age > JOINED_WITHIN_S
        if (too_old or too_much) and not _holds_incident(folder, keep) and _remove_ended(folder):
            taken -= size
            removed.append(folder.path)
    return removed


def reason_to_keep(folder: RunFolder) -> str:
    """Why a folder may not be a dead run of ours; '' where it is. Raises OSError."""
    # Every run folder is private: a folder that is not holds something else with similar files.
    if not is_private(folder.path):
        link = os.path.islink(folder.path)
        return "it is a link" if link else f"distwatch of uid {os.getuid()} did not create it"
    here = host_name()
    far = sorted({host for start in folder.starts() if (host := start.get("host", here)) != here})
    if far and age_s(folder) < _FAR_RUN_ENDED_S:
        return f"it was written within a day, and {', '.join(far)} may still run it"
    return ""


def age_s(folder: RunFolder) -> float:
    """Seconds since a file of the run changed. Raises OSError if the folder is gone."""
    newest = 0.0
    for name in os.listdir(folder.path):
        with contextlib.suppress(OSError):
            newest = max(newest, os.lstat(os.path.join(folder.path, name)).st_mtime)
    return time.time() - newest


def remove(folder: RunFolder) -> None:
    """Removes a run from disk and memory; raises OSError if that fails."""
    volatile = folder.volatile
    shutil.rmtree(folder.path)
    if volatile and volatile != folder.path:
        shutil.rmtree(volatile, ignore_errors=True)
        remove_if_empty(os.path.dirname(volatile))


def _remove_ended(folder: RunFolder) -> bool:
    try:
        lock = take_lock(folder)
        if lock is None:
            return False
        try:
            remove(folder)
        finally:
            os.close(lock)
    except OSError:
        return False
    return True


def _is_recorded(folder: RunFolder) -> bool:
    """Whether distwatch wrote into it: nobody asked to remove what only has files of such names."""
    journals = (read_header(folder.journal(stem)) for stem in folder.stems(".journal"))
    return any("role" in start for start in folder.starts()) or any(journals)


def _most_bytes(root: str, keep: Keep) -> int | None:
    if keep.size is None or filesystem_of(root) != "tmpfs":
        return keep.size
    whole = os.statvfs(root)
    return min(keep.size, whole.f_blocks * whole.f_frsize // TMPFS_SHARE)


def _holds_incident(folder: RunFolder, keep: Keep) -> bool:
    """Whether the run has an incident that is younger than the limit of age."""
    limit_s = INCIDENTS_STAY_S if keep.age_s == float("inf") else keep.age_s
    return any(time.time() - one.st_mtime < limit_s for one in _files(folder.incidents))


def _files(place: str) -> Iterator[os.stat_result]:
    for path, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(path, name))
