"""All that one observer does about incidents: tells people, ends culprits, marks hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from distwatch.observer.journals.recording import Recording
from distwatch.observer.judging import Judge
from distwatch.observer.looks.tracking import Tracking
from distwatch.observer.responses.addresses import addresses_in
from distwatch.observer.responses.drains import Drains
from distwatch.observer.responses.endings import CulpritEnder, may_be_ended
from distwatch.observer.responses.notices import Notices
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.model import RunState

RUN_ENDED_WITHIN_S = 120.0
ASKED_TO_END_WITHIN_S = 5.0
"""A SIGTERM is usually followed by a SIGKILL soon."""


class Elsewhere(Protocol):
    """The observers of other hosts."""

    def ask_to_end(self, order: ev.RankAborted) -> None: ...


class Responses:
    """Acts only on incidents that are complete on disk, and only in the observer that judges the whole run."""

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        recording: Recording,
        tracking: Tracking,
        sockets: Callable[[], Mapping[str, str]],
        environ: Mapping[str, str] | None,
    ) -> None:
        """`environ`: the settings; None: this observer only looks."""
        self._acts = environ is not None
        self._state = state
        environ = environ or {}
        addresses = addresses_in(environ.get("DISTWATCH_NOTIFY", ""))
        self.notices = Notices(folder, state, recording, addresses)
        self.ender = CulpritEnder(recording, tracking, sockets)
        self.drains = Drains(folder, state, recording, environ.get("DISTWATCH_DRAIN", "").strip())

    def consider(self, judge: Judge, others: Elsewhere | None) -> None:
        """Looks at the verdict after each turn of the judge."""
        if judge.of_one_host or not self._acts:
            return
        incident = judge.incident
        self.notices.consider(incident, judge.findings, blocked=judge.blocked)
        if incident is None:
            return
        self.drains.consider(incident, judge.findings, judge.cases)
        for order in self.ender.consider(incident, judge.findings, judge.cases):
            if others is not None:
                others.ask_to_end(order)

    def obey(self, process: str, incident: int, code: str, summary: str) -> None:
        """The root, which judges the whole run, blames a process of this host."""
        held = self._state.processes.get(process)
        if self._acts and held is not None and may_be_ended(held):
            self.ender.end(
                ev.RankAborted(
                    host=held.host,
                    process=process,
                    global_rank=held.global_rank,
                    incident=incident,
                    code=code[:100],
                    summary=summary[:500],
                )
            )

    def holds_on(self) -> bool:
        """Whether something has begun and is not done."""
        return self.notices.holds_on() or self.ender.holds_on() or self.drains.holds_on()

    async def finish(self, *, ended: bool) -> None:
        """Finishes what has begun, in bounded time. `ended`: the run is over, not only its observer."""
        within_s = RUN_ENDED_WITHIN_S if ended else ASKED_TO_END_WITHIN_S
        await self.notices.finish(ended=ended, within_s=within_s)
        await asyncio.gather(self.ender.close(), self.drains.close())
