"""DISTWATCH_ON_HANG=abort: ends the culprit of a hang, so that the launcher starts the job again.

Only a process that has itself read that setting, at a verdict that is sure, and once its incident is on
disk. The victims are left to the launcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from distwatch.diagnosis.facts.case import Case
from distwatch.observer.background import end_tasks
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.stack_looks import ask
from distwatch.observer.looks.tracking import Tracked, Tracking
from distwatch.runfolder import start_ticks
from distwatch.settings import ENDS_CULPRITS
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import Process

SURE = 0.7
"""How sure a finding must be before a process is ended for it."""
ENDS_ITSELF_WITHIN_S = 5.0
LOOK_EVERY_S = 0.1
_SUPERVISED = ("rendezvous.", "group.")
"""The ranks that wait there end by their own deadlines."""


class CulpritEnder:
    """Ends culprits on this host, and asks the other hosts' observers to end theirs."""

    def __init__(
        self, recording: Recording, tracking: Tracking, sockets: Callable[[], Mapping[str, str]]
    ) -> None:
        """`sockets`: the control sockets of living agents, by process key."""
        self._recording = recording
        self._host = recording.header.host
        self._tracking = tracking
        self._sockets = sockets
        self._acted: set[str] = set()
        self._lived: dict[int, frozenset[str]] = {}
        """By incident, who lived when it was first on disk: whoever came later has nothing to do with it."""
        self._tasks: set[asyncio.Task[None]] = set()

    def consider(
        self, incident: int, findings: Iterable[Finding], cases: list[Case]
    ) -> list[ev.RankAborted]:
        """Ends whoever may be ended; returns those of other hosts, who are not ended yet.

        Args:
            incident: its number; it is complete on disk.
        """
        elsewhere: list[ev.RankAborted] = []
        if incident not in self._lived:
            living = (p for case in cases for p in case.job.processes if p.ended_ns is None)
            self._lived[incident] = frozenset(process.key for process in living)
        for finding in findings:
            for process in culprits_to_end(finding, cases):
                if process.key in self._acted or process.key not in self._lived[incident]:
                    continue
                self._acted.add(process.key)
                order = ev.RankAborted(
                    host=process.host,
                    process=process.key,
                    global_rank=process.global_rank,
                    incident=incident,
                    code=finding.code,
                    summary=finding.summary[:500],
                )
                if process.host == self._host:
                    self.end(order)
                else:
                    elsewhere.append(order)
        return elsewhere

    def end(self, order: ev.RankAborted) -> None:
        """Ends a process of this host in the background."""
        task = asyncio.get_running_loop().create_task(self._end(order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def holds_on(self) -> bool:
        return bool(self._tasks)

    async def close(self) -> None:
        await end_tasks(*self._tasks)

    async def _end(self, order: ev.RankAborted) -> None:
        tracked = self._tracking.processes.get(order.process)
        if tracked is None or tracked.ended:
            return
        self._record(order)
        until = time.monotonic() + ENDS_ITSELF_WITHIN_S
        if (path := self._sockets().get(order.process)) is not None:
            line = f"end incident {order.incident}: {' '.join(order.summary.split())}"
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(ask(path, f"{line[:900]}\n"), ENDS_ITSELF_WITHIN_S)
            while _lives(tracked) and time.monotonic() < until:
                await asyncio.sleep(LOOK_EVERY_S)
            if not _lives(tracked):
                return
        # It holds the GIL, is stopped, or is stuck in the kernel.
        why = kill(tracked)
        self._record(
            ev.RankAborted(
                host=order.host, process=order.process, global_rank=order.global_rank,
                incident=order.incident, code=order.code, summary=order.summary,
                how="failed" if why else "killed",
                why=why or f"it did not end itself within {ENDS_ITSELF_WITHIN_S:.0f} s",
            )
        )  # fmt: skip

    def _record(self, event: ev.RankAborted) -> None:
        self._recording.record(event)
        self._recording.flush()


def culprits_to_end(finding: Finding, cases: list[Case]) -> Iterator[Process]:
    """The processes that may be ended for a finding: none for a warning, a doubt, or another's process."""
    if finding.role != "root" or finding.severity != "hang" or finding.confidence < SURE:
        return
    if finding.code.startswith(_SUPERVISED):
        return
    for rank in finding.culprit_ranks:
        # A rank of that number in two worlds of one run: nothing says which one is meant.
        found = [case.job.ranks[rank] for case in cases if rank in case.job.ranks]
        if len({process.key for process in found}) != 1:
            continue
        if may_be_ended(found[0]):
            yield found[0]


def may_be_ended(process: Process) -> bool:
    """Whether it lives, and has itself read a DISTWATCH_ON_HANG that allows it."""
    started = process.started
    asked = started is not None and started.on_hang in ENDS_CULPRITS and not started.attached
    return asked and process.ended_ns is None


def kill(tracked: Tracked) -> str:
    """Sends SIGKILL to exactly that process of this user; returns why it could not, or ''."""
    try:
        descriptor = os.pidfd_open(tracked.pid)
    except OSError as error:
        return error.strerror or str(error)
    try:
        # Both are read after the pidfd is held: a pid that was used again is another process.
        if start_ticks(tracked.pid) != tracked.ticks:
            return "the process is gone"
        if os.stat(f"/proc/{tracked.pid}").st_uid != os.getuid():
            return "it is another user's"
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(descriptor)
    return ""


def _lives(tracked: Tracked) -> bool:
    return not tracked.ended and start_ticks(tracked.pid) == tracked.ticks
