"""The source files in which ranks may part, read while they are still what the ranks loaded."""

from __future__ import annotations

import os
import threading

from distwatch.diagnosis.verdict.probe_requests import WantedFile, files_of_interest
from distwatch.observer.background import WITHIN_S
from distwatch.probes.sources import read_file
from distwatch.state.events import SourceFileRead
from distwatch.state.model import RunState

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def wanted_files(state: RunState, host: str) -> list[WantedFile]:
    """The files that are not read yet; at most a few at once."""
    return files_of_interest(state, host, TICK_S)


def read_wanted(host: str, wanted: WantedFile) -> SourceFileRead:
    """One of them. It blocks where a file system hangs."""
    process = wanted.process
    pid = process.pid if process.ended_ns is None else 0
    return read_file(host, wanted.file, pid, wanted.started_s, wanted.functions)


def read_all(state: RunState, host: str) -> list[SourceFileRead]:
    """All of them, for a report on a run that no observer has read them for; none if that takes too long.

    A rank may ask for a report, and must not wait for a file system that hangs.
    """
    read: list[SourceFileRead] = []
    wanted = wanted_files(state, host)
    thread = threading.Thread(
        target=lambda: read.extend([read_wanted(host, one) for one in wanted]), daemon=True
    )
    if wanted:
        thread.start()
        thread.join(WITHIN_S)
    return list(read)
