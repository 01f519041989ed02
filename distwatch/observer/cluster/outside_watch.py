"""An observer on this host for a job whose ranks run without distwatch."""

from __future__ import annotations

import os
import signal
import socket
import time

from distwatch.observer.journals.reading import write_attached
from distwatch.observer.lock import lock_holder
from distwatch.observer_process import start_observer
from distwatch.probes import discovery
from distwatch.runfolder import RunFolder
from distwatch.socket_path import within_limit
from distwatch.state.identity import Identity

STARTED_WITHIN_S = 20.0
ENDED_WITHIN_S = 10.0


class OutsideWatch:
    """Looks for the job's ranks on this host until there are some, and has an observer look at them.

    Attributes:
        started: whether the observer is this one's.
    """

    def __init__(self, folder: RunFolder, job: Identity) -> None:
        self._folder = folder
        self._job = job
        self.started = False

    def keep(self) -> None:
        """One try; does nothing once the run has an observer here."""
        if self.started or lock_holder(self._folder) is not None:
            return
        ranks = discovery.ranks_of(self._job)
        if not ranks:
            return
        self._folder.create()
        members = discovery.job_of(ranks[0].pid)
        write_attached(self._folder, [member.process for member in members])
        start_observer(self._folder, os.environ)
        self.started = True
        until = time.monotonic() + STARTED_WITHIN_S
        while not self._listens() and time.monotonic() < until:
            time.sleep(0.05)

    def _listens(self) -> bool:
        # It takes its lock and makes its socket before it listens: only a connection shows that.
        with socket.socket(socket.AF_UNIX) as tried, within_limit(self._folder.socket) as path:
            return bool(lock_holder(self._folder)) and not tried.connect_ex(path)

    def end(self) -> None:
        """Ends the observer if it was started here, and waits for its last record."""
        if self.started and (pid := lock_holder(self._folder)):
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + ENDED_WITHIN_S
            while os.path.isdir(f"/proc/{pid}") and time.monotonic() < until:
                time.sleep(0.05)
