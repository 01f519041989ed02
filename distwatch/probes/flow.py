"""How many bytes a process has read and written so far, without what its infrastructure does."""

from __future__ import annotations

from typing import NamedTuple

from distwatch.probes.procfs import name_of, read_text, tasks_of

# torch names the threads of its store, watchdogs and gloo; they answer others while a rank hangs.
_INFRASTRUCTURE = ("distwatch", "pt_", "gloo", "nccl", "NCCL", "cuda", "ray")


class Bytes(NamedTuple):
    """Cumulative, of regular files, pipes and terminals; sockets only where read and write serve them."""

    read: int
    written: int


def bytes_moved(pid: int) -> tuple[Bytes, Bytes] | None:
    """The bytes of a process's main thread, and of its other threads; None: gone, or not readable.

    A thread that has ended takes its count with it: only growth means something.
    """
    main = _counts(pid, pid)
    if main is None:
        return None
    others = [
        counts
        for task in tasks_of(pid)
        if task != pid
        and not name_of(task).startswith(_INFRASTRUCTURE)
        and (counts := _counts(pid, task)) is not None
    ]
    return main, Bytes(sum(one.read for one in others), sum(one.written for one in others))


def _counts(pid: int, task: int) -> Bytes | None:
    words = read_text(f"/proc/{pid}/task/{task}/io").split()
    # rchar: N wchar: N …: what the calls moved, from the page cache, too.
    return Bytes(int(words[1]), int(words[3])) if len(words) >= 4 else None
