"""Source lines of a process, read as the process itself sees its files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from distwatch.foreign_files import read_named
from distwatch.redaction import redact_text
from distwatch.state.events import SourceLine

_LARGEST = 4 * 1024 * 1024
_LONGEST = 160


def read_lines(pid: int, places: Iterable[tuple[str, int]]) -> list[SourceLine]:
    """The text of each place (file, line from 1) that can be read; secrets are redacted.

    It reads through the process's own root, which may be a container's. A hanging file system blocks
    the caller: call it where blocking does no harm.
    """
    found: list[SourceLine] = []
    by_file: dict[str, list[int]] = {}
    for file, line in places:
        by_file.setdefault(file, []).append(line)
    for file, lines in by_file.items():
        content = _content(pid, file)
        for line in lines:
            if 0 < line <= len(content) and (text := content[line - 1].strip()):
                text = redact_text(text)[:_LONGEST]
                found.append(SourceLine(file=file, line=line, text=text))
    return found


def _content(pid: int, file: str) -> list[str]:
    base = f"/proc/{pid}/root" if os.path.isabs(file) else f"/proc/{pid}/cwd/"
    for path in (base + file, file):
        # A stack may contain anything as a file name, even a device.
        with contextlib.suppress(OSError, ValueError):
            return read_named(path, _LARGEST).decode("utf-8", "replace").splitlines()
    return []
