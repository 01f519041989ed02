"""Whether what a process writes to its log is the same again and again: a retry that reports each attempt."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter

import msgspec

from distwatch.foreign_files import open_named, read_and_close
from distwatch.probes.flow import counts_of
from distwatch.probes.output_files import files_of
from distwatch.redaction import redact_text
from distwatch.visible_text import shorten, visible_line

TAIL = 16 * 1024
ROUNDS = 3
_LINE = 160
_TIMES = re.compile(rb"\d{4}-\d\d-\d\d[ T]?|\d\d:\d\d:\d\d(?:[.,]\d+)?Z?")
_TELLING = re.compile("error|exception|fail|retry|again|timed? ?out|refused|denied|cannot", re.I)


class Output(msgspec.Struct, frozen=True):
    """What a process has written so far, and the ends of its logs. `sizes` and `tails`: by path."""

    written: int
    sizes: dict[str, int]
    tails: dict[str, bytes]


def look_at_output(pid: int) -> Output | None:
    """The regular files that are its stdout and stderr; None where there are none, or it is gone."""
    counts = counts_of(pid)
    sizes: dict[str, int] = {}
    tails: dict[str, bytes] = {}
    for path in dict.fromkeys(files_of(pid)):
        with contextlib.suppress(OSError):
            descriptor = open_named(path)
            sizes[path] = os.fstat(descriptor).st_size
            os.lseek(descriptor, max(0, sizes[path] - TAIL), os.SEEK_SET)
            tails[path] = read_and_close(descriptor, min(TAIL, sizes[path]))
    if counts is None or not sizes:
        return None
    main, others = counts
    return Output(main.written + sum(one.written for one in others.values()), sizes, tails)


def repeated_line(before: Output, now: Output) -> str | None:
    """The line of all that was written in between that tells most; '' where it is not the same over and over.

    None where it cannot be told: nothing was written, or too little, or not to the log alone.
    """
    grown = {path: size - before.sizes.get(path, size) for path, size in now.sizes.items()}
    total, written = sum(grown.values()), now.written - before.written
    if min(grown.values()) < 0 or total <= 0:
        return None
    if abs(total - written) > 64 + total // 10:
        return ""  # it, or another process, writes elsewhere, too
    if max(grown.values()) > TAIL:
        return None
    lines = [
        line for path, size in grown.items() if size for line in _lines(now.tails[path][-size:])
    ]
    times = Counter(_TIMES.sub(b"", line) for line in lines)
    if max(times.values(), default=0) < ROUNDS:
        return None if len(lines) < 2 * ROUNDS else ""
    if min(times.values()) < ROUNDS - 1:
        return ""
    texts = [line.decode("utf-8", "replace").strip() for line in lines]
    telling = next((one for one in reversed(texts) if _TELLING.search(one)), texts[-1])
    return shorten(visible_line(redact_text(telling, _LINE)), _LINE)


def _lines(text: bytes) -> list[bytes]:
    """The whole lines, without those that are blank."""
    return [line for line in text.rpartition(b"\n")[0].split(b"\n") if line.strip()]
