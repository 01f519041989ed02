"""The files that a process has open for writing: how far it is in each, and on which storage they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from distwatch.probes.procfs import read_text
from distwatch.state.bounds import whole_number
from distwatch.state.storage_events import WrittenFile

_DESCRIPTORS = 4096
_FILES = 4
_NOT_FILES = ("/dev/", "/proc/", "/sys/", "/memfd:")


def written_files(pid: int, awaited: str = "") -> list[WrittenFile]:
    """The files, without their free space; asks the kernel alone, so that it never blocks.

    Logs, which only grow at their end, are left out, and what the process reads from.

    Args:
        awaited: what its main thread's system call is about: that file comes first.
    """
    mounts = _mounts(pid)
    found = [one for number in _numbers(pid) if (one := _written(pid, number, mounts)) is not None]
    if awaited.startswith("/") and all(one.path != awaited for one in found):
        found.append(_to_be_opened(awaited, mounts))
    # Of several, the one that the call is about; else the newest descriptor.
    found.sort(key=lambda one: one.path != awaited)
    return found[:_FILES]


def with_free_space(pid: int, file: WrittenFile) -> WrittenFile:
    """The same with the space that is left there. Blocks where the file system does."""
    try:
        left = os.statvfs(f"/proc/{pid}/root{file.mount}")
    except OSError:
        return file
    return msgspec.structs.replace(file, free_bytes=left.f_bavail * left.f_frsize)


def _numbers(pid: int) -> list[int]:
    try:
        names = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)[:_DESCRIPTORS]


def _written(pid: int, number: int, mounts: dict[str, tuple[str, str, str]]) -> WrittenFile | None:
    if number <= 2:
        return None
    try:
        path = os.readlink(f"/proc/{pid}/fd/{number}")
    except OSError:
        return None
    if not path.startswith("/") or path.startswith(_NOT_FILES):
        return None
    said = dict(_fields(read_text(f"/proc/{pid}/fdinfo/{number}")))
    try:
        flags = int(said.get("flags", "0"), 8)
    except ValueError:
        return None
    if flags & os.O_ACCMODE != os.O_WRONLY or flags & os.O_APPEND:
        return None
    storage, source, mount = mounts.get(said.get("mnt_id", ""), ("", "", ""))
    return WrittenFile(
        path=path,
        written_bytes=whole_number(said.get("pos", "0")) or 0,
        storage=storage,
        source=source,
        mount=mount,
    )


def _to_be_opened(path: str, mounts: dict[str, tuple[str, str, str]]) -> WrittenFile:
    """A file in whose opening, or in another call by its name, the process is."""
    around = [one for one in mounts.values() if f"{path}/".startswith(f"{one[2].rstrip('/')}/")]
    storage, source, mount = max(around, key=lambda one: len(one[2]), default=("", "", ""))
    return WrittenFile(path=path, storage=storage, source=source, mount=mount)


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _mounts(pid: int) -> dict[str, tuple[str, str, str]]:
    """By the kernel's number of a mount: the file system's type, what is mounted, and where."""
    found: dict[str, tuple[str, str, str]] = {}
    for line in read_text(f"/proc/{pid}/mountinfo").splitlines():
        place, _, what = line.partition(" - ")
        fields, told = place.split(), what.split()
        if len(fields) > 4 and len(told) > 1:
            found[fields[0]] = (told[0], told[1], fields[4])
    return found
