"""Walks what a person named: files, folders, standard input; all of them bounded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

import msgspec

from distwatch.errors import NoSuchTarget
from distwatch.foreign_files import open_named, read_and_close

FILES_AT_MOST = 200_000
FOLDERS_DEEP = 32
LARGEST = 1 << 30
"""Bytes of one file that are read: of a longer log its beginning and its end."""
_TOTAL = 8 << 30
STDIN = "-"


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file. `content` is None where it could not be read, and `why_not` says why."""

    name: str
    """As a person would recognize it: below the folder that was named."""
    path: str
    content: bytes | None = None
    written_ns: int = 0
    why_not: str = ""


def found_files(paths: Iterable[str]) -> Iterator[FoundFile]:
    """Each file below these paths, in the order of their names; one at a time is in memory.

    Raises:
        NoSuchTarget: there is no such file or folder, or there are too many files.
    """
    left = _TOTAL
    seen: set[tuple[int, int]] = set()
    for name, path in _listed(paths):
        found = _read(name, path, left, seen)
        if found is not None:
            left -= len(found.content or b"")
            yield found


def _listed(paths: Iterable[str]) -> list[tuple[str, str]]:
    listed: list[tuple[str, str]] = []
    for path in paths:
        if path == STDIN:
            listed.append(("standard input", STDIN))
        elif not os.path.exists(path):
            raise NoSuchTarget(f"there is no {path}", advice="Name the file or folder to import.")
        elif not os.path.isdir(path):
            listed.append((os.path.basename(path), path))
        else:
            listed += sorted(
                (os.path.relpath(file, path), file) for file in _below(os.path.abspath(path))
            )
        if len(listed) > FILES_AT_MOST:
            raise NoSuchTarget(
                f"{path} holds more than {FILES_AT_MOST} files",
                advice="Name a folder that holds only what the job left.",
            )
    return listed


def _below(path: str) -> Iterator[str]:
    depth = path.rstrip("/").count("/")
    for folder, folders, names in os.walk(path):
        if folder.count("/") - depth >= FOLDERS_DEEP:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in names if not name.startswith("."))


def _read(name: str, path: str, left: int, seen: set[tuple[int, int]]) -> FoundFile | None:
    """None: it is a file that was read under another name already."""
    if path == STDIN:
        return FoundFile(name=name, path=path, content=sys.stdin.buffer.read(LARGEST))
    try:
        descriptor = open_named(path)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) in seen:
            os.close(descriptor)
            return None
        seen.add((status.st_dev, status.st_ino))
        if left <= 0:
            os.close(descriptor)
            why = f"the files before it have more than {_TOTAL >> 30} GiB"
            return FoundFile(name=name, path=path, why_not=why)
        content = _both_ends(descriptor, status.st_size)
    except OSError as error:
        why = f"not readable: {error.strerror or error}"
        return FoundFile(name=name, path=path, why_not=why)
    return FoundFile(name=name, path=path, content=content, written_ns=status.st_mtime_ns)


def _both_ends(descriptor: int, size: int) -> bytes:
    if size <= LARGEST:
        return read_and_close(descriptor, LARGEST)
    half = LARGEST // 2
    begin = os.pread(descriptor, half, 0)
    os.lseek(descriptor, size - half, os.SEEK_SET)
    return begin + b"\n" + read_and_close(descriptor, half)
