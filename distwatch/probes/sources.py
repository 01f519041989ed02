"""Source lines of a process, read as the process itself sees its files."""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Iterable

from distwatch.foreign_files import FileRefused, open_named, read_and_close, read_named
from distwatch.probes.source_secrets import redact_source
from distwatch.redaction import redact_text
from distwatch.state.events import SourceFileRead, SourceLine

_LARGEST = 4 * 1024 * 1024
_LONGEST = 160
_LARGEST_KEPT = 160 * 1024
"""Bytes of a file that is kept as a whole: an event has room for 256 KiB."""
_SLACK_S = 2.0
"""A process loads its files a moment after it began, and its start is known to a tick."""
_PRIVATE_KEY = "PRIVATE KEY-----"


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


def read_file(
    host: str, file: str, pid: int, started_s: float, functions: Iterable[tuple[int, str]]
) -> SourceFileRead:
    """A whole source file, if it is what the process loaded; else why it is not read. Never raises.

    Like `read_lines`, it may block where a file system hangs.

    Args:
        pid: 0: the process has ended.
        started_s: when it began, by the wall clock.
        functions: lines that it has run, each with its function: they have to be there.
    """
    try:
        text = _unchanged(pid, file, started_s)
        if missing := _missing_function(text, functions):
            raise FileRefused(f"{missing} is not in it: it is not what the process loaded")
        return SourceFileRead(host=host, file=file, text=_redacted(text))
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return SourceFileRead(host=host, file=file, not_read=why[:_LONGEST])


def _unchanged(pid: int, file: str, started_s: float) -> str:
    descriptor = _open(pid, file)
    status = os.fstat(descriptor)
    content = read_and_close(descriptor, _LARGEST_KEPT + 1)
    if status.st_mtime > started_s + _SLACK_S:
        raise FileRefused("changed since it was loaded")
    if len(content) > _LARGEST_KEPT:
        raise FileRefused(f"larger than {_LARGEST_KEPT >> 10} KiB")
    text = content.decode("utf-8")
    if _PRIVATE_KEY in text:
        raise FileRefused("it contains a private key")
    return text


def _open(pid: int, file: str) -> int:
    if pid:
        with contextlib.suppress(OSError):
            return open_named(_as_seen_by(pid, file))
    if not os.path.isabs(file):
        raise FileRefused("its folder is not known")
    return open_named(file)


def _missing_function(text: str, functions: Iterable[tuple[int, str]]) -> str:
    """The first function that is not around its line; '' where all are.

    Raises:
        ValueError: the text is not Python of this version.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not parsed: {type(error).__name__}") from None
    named = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for line, function in functions:
        if not function.startswith("<") and not any(
            node.name == function and node.lineno <= line <= (node.end_lineno or 0)
            for node in named
        ):
            return f"{function} at line {line}"
    return ""


def _redacted(text: str) -> str:
    """The same lines without secrets, still as Python.

    Raises:
        ValueError: without its secrets it is not Python any more.
    """
    redacted = redact_source(text)
    try:
        ast.parse(redacted)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("its secrets could not be taken out") from None
    return redacted


def _as_seen_by(pid: int, file: str) -> str:
    """A path through the process's own root, which may be a container's."""
    return (f"/proc/{pid}/root" if os.path.isabs(file) else f"/proc/{pid}/cwd/") + file


def _content(pid: int, file: str) -> list[str]:
    for path in (_as_seen_by(pid, file), file):
        # A stack may contain anything as a file name, even a device.
        with contextlib.suppress(OSError, ValueError):
            return read_named(path, _LARGEST).decode("utf-8", "replace").splitlines()
    return []
