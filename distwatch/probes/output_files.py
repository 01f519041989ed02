"""The log files of a job that runs: those that its processes write to, and those of ranks that are gone.

A rank that ended before anybody looked has no process any more, but its log lies beside the others': in torchrun's
`--log-dir`, or under a name that differs by the rank alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable

import msgspec

from distwatch.foreign_files import open_named, read_and_close
from distwatch.probes.process import began_s

TAIL = 256 * 1024
_OUTPUTS = (2, 1)
_ATTEMPT = re.compile(r"(.*/attempt_\d+/)(\d+)(/std(?:out|err)\.log)")
_MISSING_AT_MOST = 64
_EARLIER_S = 60.0
"""The launcher starts one rank before another. A file that is older is of another launch."""


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A log, as this host sees it. `rank` is None where several ranks write to it."""

    path: str
    rank: int | None = None


def output_files(ranks: dict[int, int], world: int) -> list[OutputFile]:
    """The regular files that are stdout or stderr of these processes, and those of the other ranks of the world.

    Args:
        ranks: pids by global rank, all on this host.
    """
    writers: dict[str, set[int]] = {}
    for rank, pid in ranks.items():
        for path in files_of(pid):
            writers.setdefault(path, set()).add(rank)
    found = [
        OutputFile(path=path, rank=next(iter(who)) if len(who) == 1 else None)
        for path, who in writers.items()
    ]
    since_s = min((began for pid in ranks.values() if (began := began_s(pid))), default=0.0)
    for rank in sorted(set(range(world)) - ranks.keys())[:_MISSING_AT_MOST]:
        beside = {
            _beside(path, next(iter(who)), rank) for path, who in writers.items() if len(who) == 1
        }
        found += [
            OutputFile(path=path, rank=rank)
            for path in sorted(beside - writers.keys() - {""})
            if _is_of_this_launch(path, since_s)
        ]
    return found


def read_tail(path: str) -> bytes:
    """The end of a log, from the beginning of a line; raises OSError where it is no regular file."""
    descriptor = open_named(path)
    size = os.fstat(descriptor).st_size
    os.lseek(descriptor, max(0, size - TAIL), os.SEEK_SET)
    content = read_and_close(descriptor, TAIL)
    return content if size <= TAIL else content.partition(b"\n")[2]


def files_of(pid: int) -> Iterable[str]:
    """The regular files that are its stderr and stdout, as this host reaches them."""
    root = f"/proc/{pid}/root"
    for descriptor in _OUTPUTS:
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            path = target if os.path.realpath(root) == "/" else root + target
            if target.startswith("/") and os.path.isfile(path) and not target.startswith("/dev/"):
                yield path


def _beside(path: str, writer: int, rank: int) -> str:
    """Where the log of another rank would be; '' where the name does not say which rank it is of."""
    if attempt := _ATTEMPT.fullmatch(path):
        # Numbered by local rank, which is the global one where there is one node.
        return f"{attempt[1]}{rank}{attempt[3]}" if int(attempt[2]) == writer else ""
    folder, name = os.path.split(path)
    numbers = list(re.finditer(r"(?<!\d)0*(\d{1,6})(?!\d)", name))
    last = next((one for one in reversed(numbers) if int(one[1]) == writer), None)
    if last is None:
        return ""
    width = len(last[0])
    return os.path.join(folder, f"{name[: last.start()]}{rank:0{width}}{name[last.end() :]}")


def _is_of_this_launch(path: str, since_s: float) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_mtime >= since_s - _EARLIER_S
