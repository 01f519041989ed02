"""What observers of several hosts say of each other, and what each has on disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from distwatch.observer.journals.segments import read_journal
from distwatch.observer.lock import lock_holder
from distwatch.runfolder import RunFolder
from distwatch.state.model import RunState
from tests.support.leftovers import own_pid, processes_of


def links_of(state: RunState) -> dict[str, bool]:
    """What the root, on node1, says of the other hosts."""
    root = state.hosts.get("node1")
    return {name: link.linked for name, link in root.links.items()} if root else {}


def observers_of(root: str) -> list[int]:
    """Pids of a job's observers, in the test's own process table, by the root of its run folders.

    Without those that were started beside one that runs: they end at once.
    """
    return [pid for pid in processes_of(root) if _observes(pid)]


def _observes(pid: int) -> bool:
    with contextlib.suppress(OSError):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(b"distwatch.observer.__main__" in one for one in arguments):
            folders = (RunFolder(os.fsdecode(one)) for one in arguments if one.startswith(b"/"))
            return any(lock_holder(folder) == own_pid(pid) for folder in folders)
    return False


def journals_of(folder: RunFolder, host: str) -> dict[str, list[tuple[int, int, bytes]]]:
    """Every record of that host's streams, in the order in which they stand in the files."""
    found: dict[str, list[tuple[int, int, bytes]]] = {}
    for stem in folder.stems(".journal"):
        contents = read_journal(folder.journal(stem))
        assert contents is not None
        assert contents.damaged == 0
        if contents.header.host == host:
            records = [(r.seq, r.time_ns, r.payload) for r in contents.records]
            found.setdefault(contents.header.stream, []).extend(records)
    return found
