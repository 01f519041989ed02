"""What a job on NCCL tells whoever asks: its RAS service, and the recorder that torch's watchdog writes to files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from signal import SIGABRT

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.deaths import ending_signal
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.ras_looks import RasLooks
from distwatch.observer.looks.recorder_looks import RecorderLooks
from distwatch.observer.looks.tracking import Tracking
from distwatch.state.model import RunState


class NcclLooks:
    """Both looks of one observer; each has a thread of its own."""

    def __init__(
        self,
        recording: Recording,
        tracking: Tracking,
        state: RunState,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_news` is called when a look finds something new."""
        self._host = recording.header.host
        self._tracking = tracking
        self._state = state
        self._ras = RasLooks(recording, on_news)
        self._recorder = RecorderLooks(recording, on_news)

    def consider(self, why: str, largest: Case | None, *, leaf: bool) -> None:
        """Starts the looks that are due for that reason ('': nothing is suspicious). Never waits for them.

        Args:
            largest: the run's largest world.
            leaf: another host's observer sees the whole run.
        """
        agents = {key for key, process in self._state.processes.items() if process.instrumented}
        self._recorder.read_aborts(self._aborted())
        self._recorder.consider(self._tracking.processes.values(), why, agents=agents)
        # One process answers for all hosts: of several observers, the root asks, or the one beside rank 0.
        first_here = largest is not None and 0 in largest.job.ranks_on(self._host)
        if leaf and not first_here:
            return
        pids = [one.pid for one in self._tracking.living() if one.role != "launcher"]
        groups = largest.groups if largest is not None else []
        self._ras.consider(why, pids, on_nccl=any("nccl" in view.backend for view in groups))

    @property
    def reads_abort(self) -> bool:
        """Whether the last words of an aborted process are being read."""
        return self._recorder.reads_abort

    def _aborted(self) -> set[str]:
        processes = self._state.processes.items()
        return {key for key, p in processes if p.exception is None and ending_signal(p) == SIGABRT}

    def look_soon(self) -> None:
        """A process has ended: torch's watchdog may have ended it, and left a dump."""
        self._recorder.scan_soon()

    async def look_last(self, within_s: float) -> None:
        """Reads what the ranks left, once all have ended."""
        self._recorder.read_aborts(self._aborted())
        await asyncio.wait([asyncio.ensure_future(self._recorder.scan())], timeout=within_s)

    def close(self) -> None:
        """Cancels the looks that are under way; nothing of them is recorded."""
        self._ras.close()
        self._recorder.close()
