"""Where a process's flight recorder leaves its dumps, and the pipe by which torch's watchdog can be asked for one.

torch writes the file when a collective times out (TORCH_NCCL_DUMP_ON_TIMEOUT), or when somebody writes to the pipe.
"""

from __future__ import annotations

import os

import msgspec

from distwatch.foreign_files import open_ours, read_and_close, write_to_pipe
from distwatch.probes.procfs import read_text, stat_fields
from distwatch.probes.table import read_environ
from distwatch.state.bounds import MOST_RANKS, whole_number

LARGEST = 64 << 20
_NAMED_BY = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"


class RecorderFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of one rank."""

    pid: int
    global_rank: int
    paths: tuple[str, ...]
    """Where the dump may be: as its environment says, else where versions of torch put it."""
    pipe: str = ""
    """Of the watchdog that listens for requests; '' where none is named."""
    started_wall_ns: int = 0
    """What is older was left by another job."""


class LeftDump(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of one dump."""

    path: str
    written_wall_ns: int
    content: bytes


def recorder_files_of(pid: int, now_wall_ns: int) -> RecorderFiles | None:
    """What a rank's environment says of its dumps; None for what is no rank, or not readable."""
    environ = read_environ(pid) or {}
    rank = whole_number(environ.get("RANK"))
    fields = stat_fields(pid)
    if rank is None or rank > MOST_RANKS or fields is None:
        return None
    named = [environ[name] for name in _NAMED_BY if environ.get(name)]
    home = environ.get("HOME", "/tmp")
    cache = environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    usual = [f"{cache}/torch/comm_lib_trace_rank_", "/tmp/nccl_trace_rank_"]
    stem = environ.get(_PIPE, "")
    return RecorderFiles(
        pid=pid,
        global_rank=rank,
        paths=tuple(f"{prefix}{rank}" for prefix in named[:1] or usual),
        pipe=f"{stem}{rank}.pipe" if stem.startswith("/") else "",
        started_wall_ns=now_wall_ns - int(_age_s(int(fields[19])) * 1e9),
    )


def newest_dump(files: RecorderFiles, after_wall_ns: int) -> LeftDump | None:
    """The newest dump of this start of the rank that was written after that; None where there is none.

    A file that is still being written is read again when it has changed.
    """
    oldest = max(after_wall_ns + 1, files.started_wall_ns)
    for path in files.paths:
        try:
            descriptor = open_ours(path)
        except OSError:
            continue
        written = os.fstat(descriptor).st_mtime_ns
        content = read_and_close(descriptor, LARGEST if written >= oldest else 0)
        if content:
            return LeftDump(path=path, written_wall_ns=written, content=content)
    return None


def ask_for_dump(files: RecorderFiles) -> bool:
    """Asks torch's watchdog for a dump, where that process itself has the pipe open; whether it was asked."""
    if not files.pipe or not _holds(files.pid, files.pipe):
        return False
    try:
        write_to_pipe(files.pipe, b"1\n")
    except OSError:
        return False
    return True


def _holds(pid: int, path: str) -> bool:
    place = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{place}/{name}") == path for name in os.listdir(place))
    except OSError:
        return False


def _age_s(start_ticks: int) -> float:
    uptime = read_text("/proc/uptime").split()
    return float(uptime[0]) - start_ticks / os.sysconf("SC_CLK_TCK") if uptime else 0.0
