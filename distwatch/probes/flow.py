"""What a process has moved so far, without what its infrastructure does: bytes, new memory, CPU."""

from __future__ import annotations

import os
from typing import NamedTuple

from distwatch.probes.procfs import name_of, read_text, stat_fields, tasks_of

# torch names the threads of its store, watchdogs and gloo; they answer others while a rank hangs.
_INFRASTRUCTURE = ("distwatch", "pt_", "gloo", "nccl", "NCCL", "cuda", "ray")
_INHERITED = "pt_main_thread"
"""torch names the main thread so, and threads of the person's own code have its name."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Counts(NamedTuple):
    """Cumulative, of some threads.

    `read` and `written`: of regular files, pipes and terminals; of sockets only what read and write moved,
    not recv and send. `touched`: bytes of memory used for the first time, by page faults.
    """

    read: int = 0
    written: int = 0
    touched: int = 0
    busy_s: float = 0.0
    """For which they have run, or have waited for a core: a crowded machine gives them little CPU."""
    system_s: float = 0.0

    def since(self, before: Counts) -> Counts:
        """What has been added; a thread's number may be used again, so never less than nothing."""
        return Counts(
            max(0, self.read - before.read),
            max(0, self.written - before.written),
            max(0, self.touched - before.touched),
            max(0.0, self.busy_s - before.busy_s),
            max(0.0, self.system_s - before.system_s),
        )

    def plus(self, more: Counts) -> Counts:
        return Counts(
            self.read + more.read,
            self.written + more.written,
            self.touched + more.touched,
            self.busy_s + more.busy_s,
            self.system_s + more.system_s,
        )


def counts_of(pid: int) -> tuple[Counts, dict[int, Counts]] | None:
    """Of a process's main thread, and of each of its other threads; None: gone, or not readable."""
    main = _counts(pid, pid)
    if main is None:
        return None
    others = {
        task: counts
        for task in tasks_of(pid)
        if task != pid
        and ((name := name_of(task)) == _INHERITED or not name.startswith(_INFRASTRUCTURE))
        and (counts := _counts(pid, task)) is not None
    }
    return main, others


def _counts(pid: int, task: int) -> Counts | None:
    words = read_text(f"/proc/{pid}/task/{task}/io").split()
    fields = stat_fields(pid, task)
    if len(words) < 4 or fields is None:
        return None
    # rchar: N wchar: N …: what the calls moved, from the page cache, too.
    return Counts(
        read=int(words[1]),
        written=int(words[3]),
        touched=(int(fields[7]) + int(fields[9])) * _PAGE,
        busy_s=_busy_s(pid, task, fields),
        system_s=int(fields[12]) / _TICKS,
    )


def _busy_s(pid: int, task: int, fields: list[str]) -> float:
    account = read_text(f"/proc/{pid}/task/{task}/schedstat").split()
    if len(account) >= 2:
        return (int(account[0]) + int(account[1])) / 1e9
    return (int(fields[11]) + int(fields[12])) / _TICKS
