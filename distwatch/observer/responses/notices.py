"""Tells people of each incident once, and once when it is over."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import msgspec

from distwatch.foreign_files import read_ours
from distwatch.observer.background import end_tasks, in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.responses.addresses import Address
from distwatch.observer.responses.delivery import WITHIN_S, Outcome, deliver
from distwatch.report.notice import Notice, Phase, notice_of
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import INCIDENTS_KEPT, RunState

SETTLED_S = 10.0
"""An incident is over when nothing has blocked the run for this long: a verdict may flicker."""
TOLD_MOST = 64
"""Incidents of one run: people who got that many know."""
REPORT_MOST = 64 << 20
log = logging.getLogger("distwatch.observer")


class Pace(NamedTuple):
    """How patiently an address is tried."""

    pauses_s: tuple[float, ...] = (2.0, 8.0, 30.0)
    """Before the second try, the third, …; there is one try more than pauses."""
    within_s: float = WITHIN_S
    """The deadline of one try."""


class _Open(msgspec.Struct):
    """The incident that people know of and that is not over."""

    incident: int
    code: str
    culprits: frozenset[int]
    notice: Notice | None = None

    def is_continued_by(self, incident: int, root: Finding | None) -> bool:
        if incident == self.incident:
            return True
        if root is None:
            return False
        return bool(self.culprits & set(root.culprit_ranks)) or (
            not self.culprits and not root.culprit_ranks and root.code == self.code
        )


class Notices:
    """The messages of one observer. Without an address it does nothing."""

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        recording: Recording,
        addresses: Iterable[Address],
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`state`: what an earlier observer of this run has told is in it."""
        self._folder = folder
        self._recording = recording
        self._host = recording.header.host
        self._addresses = tuple(addresses)
        self._pace = pace or Pace()
        self._clock = clock
        known = state.hosts.get(self._host)
        self._told = dict(known.notified) if known else {}
        """By phase and incident; of this observer and of earlier ones."""
        self._open = self._left_open()
        self._clear_since: float | None = None
        self._queue: deque[tuple[Notice, Phase]] = deque()
        self._task: asyncio.Task[None] | None = None
        for address in self._addresses:
            if address.complaint:
                self._recording.miss("notify", address.complaint, once=True)

    def holds_on(self) -> bool:
        """Whether a message is on its way."""
        return self._task is not None and not self._task.done()

    def consider(self, incident: int | None, findings: Iterable[Finding], *, blocked: bool) -> None:
        """Looks at the verdict; sends what is new.

        Args:
            incident: the number of the current incident, once it is complete on disk.
            blocked: whether the verdict is a hang or a crash.
        """
        if not self._addresses:
            return
        if blocked:
            self._clear_since = None
            if incident is not None:
                self._take(incident, next((f for f in findings if f.role == "root"), None))
        elif self._open is not None:
            now = self._clock()
            if self._clear_since is None:
                self._clear_since = now
            elif now - self._clear_since >= SETTLED_S:
                self._close("recovered")

    async def finish(self, *, ended: bool, within_s: float) -> None:
        """Sends what is left, for at most `within_s`. `ended`: the run is over, not only the observer."""
        if ended and self._open is not None:
            # Whatever ran on to its end after the incident has recovered from it.
            self._close("ended" if self._clear_since is None else "recovered")
        if self._task is not None:
            await asyncio.wait([self._task], timeout=within_s)
            if not self._task.done():
                await end_tasks(self._task)
                self._recording.miss("notify", "the observer ended before a message was taken")

    # ---- what is to be told --------------------------------------------------------------------

    def _left_open(self) -> _Open | None:
        open_ = [
            told
            for (phase, incident), told in self._told.items()
            if phase == "new" and ("over", incident) not in self._told
        ]
        if not open_:
            return None
        newest = max(open_, key=lambda told: told.incident)
        return _Open(newest.incident, newest.code, frozenset(newest.culprit_ranks))

    def _take(self, incident: int, root: Finding | None) -> None:
        if self._open is not None:
            if self._open.is_continued_by(incident, root):
                if root is not None:
                    self._open.culprits = frozenset(root.culprit_ranks)
                return
            self._close("replaced")
        code, culprits = (root.code, root.culprit_ranks) if root else ("", ())
        self._open = _Open(incident, code, frozenset(culprits))
        if ("new", incident) in self._told:
            return
        if sum(phase == "new" for phase, _ in self._told) >= min(TOLD_MOST, INCIDENTS_KEPT):
            why = f"{TOLD_MOST} incidents of this run were told; later ones are only recorded"
            self._recording.miss("notify", why, once=True)
            return
        self._open.notice = self._notice(incident, "new")
        if self._open.notice is not None:
            self._send(self._open.notice, "new")

    def _close(self, how: Phase) -> None:
        open_, self._open, self._clear_since = self._open, None, None
        if open_ is None or ("over", open_.incident) in self._told:
            return
        notice = open_.notice or self._notice(open_.incident, how)
        if notice is not None:
            self._send(msgspec.structs.replace(notice, phase=how), how)

    def _notice(self, incident: int, phase: Phase) -> Notice | None:
        try:
            place = f"{self._host}:{self._place(incident)}"
            return notice_of(self._report(incident), incident, place, phase)
        except (OSError, msgspec.DecodeError) as error:
            self._recording.miss(
                "notify", f"incident {incident} cannot be read: {error}", once=True
            )
            return None

    def _place(self, incident: int) -> str:
        return os.path.join(self._folder.incidents, str(incident))

    def _report(self, incident: int) -> bytes:
        return read_ours(f"{self._place(incident)}/report.json", REPORT_MOST)

    # ---- telling ---------------------------------------------------------------------------------

    def _send(self, notice: Notice, phase: Phase) -> None:
        self._queue.append((notice, phase))
        if not self.holds_on():
            self._task = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._queue:
            notice, how = self._queue.popleft()
            phase: Literal["new", "over"] = "new" if how == "new" else "over"
            first = self._told.get(("new", notice.incident))
            if phase == "over" and not (first and first.delivered):
                continue  # nobody knows that there was anything
            outcomes = await asyncio.gather(*(self._try(one, notice) for one in self._addresses))
            told = ev.IncidentNotified(
                host=self._host,
                incident=notice.incident,
                phase=phase,
                how="" if how == "new" else how,
                code=notice.code,
                culprit_ranks=notice.culprit_ranks,
                delivered=any(not outcome.why for outcome in outcomes),
                to="; ".join(
                    f"{address.shown}{': ' + outcome.why if outcome.why else ''}"
                    for address, outcome in zip(self._addresses, outcomes, strict=True)
                ),
            )
            self._told[phase, notice.incident] = told
            self._recording.record(told)
            self._recording.flush()
            for address, outcome in zip(self._addresses, outcomes, strict=True):
                if outcome.why:
                    self._recording.miss("notify", f"{address.shown}: {outcome.why}", once=True)

    async def _try(self, address: Address, notice: Notice) -> Outcome:
        """Tries until it is taken, refused for good, or tried often enough."""
        outcome = Outcome()
        for pause_s in (*self._pace.pauses_s, None):
            try:
                report = self._report(notice.incident)
                outcome = await in_background(
                    deliver, address, notice, report, self._pace.within_s, within_s=None
                )
            except Exception as error:
                log.exception("a notice failed")
                outcome = Outcome(f"{type(error).__name__}", final=True)
            if not outcome.why or outcome.final or pause_s is None:
                return outcome
            log.warning("%s: %s; again in %g s", address.shown, outcome.why, pause_s)
            await asyncio.sleep(pause_s)
        return outcome
