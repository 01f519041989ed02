"""Records what hooks see: events, and steps with their deadlines."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from types import CodeType
from typing import Any

import msgspec

from distwatch.agent.journal import Journal
from distwatch.state import events as ev
from distwatch.state.steps import StepKind

SITES_NUMBERED = 20_000


class Recorder:
    """A journal, with the counters and tables for writing it. For any thread; never raises.

    Attributes:
        retained: the events that still hold.
        moved_ns: when any step of this process last made progress.
    """

    def __init__(self, journal: Journal, deadlines: Mapping[str, float]) -> None:
        self.journal = journal
        self.retained = journal.retained
        self.moved_ns = time.monotonic_ns()
        self._deadlines = deadlines
        self._numbers = itertools.count(1)
        self._stack = threading.local()
        self._sites: dict[tuple[CodeType, int, str, int], int] = {}

    def change_deadlines(self, deadlines: Mapping[str, float]) -> None:
        """Steps that begin from now on have these."""
        self._deadlines = deadlines

    def record(self, event: ev.Event) -> None:
        """Appends an event to the journal."""
        self.journal.append(event)

    def record_news(self, event: ev.Event) -> None:
        """Appends an event unless exactly this one already holds."""
        if not self.retained.has(event):
            self.record(event)

    # ---- steps ---------------------------------------------------------------------------

    def begin_step(
        self,
        name: str,
        *,
        kind: StepKind | None = None,
        deadline_s: float | None = None,
        label: str = "",
        total: int | None = None,
        site: ev.Site | None = None,
    ) -> int:
        """Records that a supervised call begins in this thread; returns its number.

        Args:
            kind: its kind, which has a deadline.
            deadline_s: only shortens that deadline (distwatch must report before torch's own timeout).
        """
        limits = [self._deadlines[kind.name] if kind else None, deadline_s]
        stack: list[int] = self._stack.__dict__.setdefault("steps", [])
        number = next(self._numbers)
        step = ev.StepStarted(
            step=number,
            name=name,
            parent=stack[-1] if stack else None,
            deadline_s=min((limit for limit in limits if limit is not None), default=None),
            label=label,
            total=total,
            site=site,
            thread=threading.current_thread().name,
        )
        stack.append(number)
        self.moved_ns = time.monotonic_ns()
        self.record(step)
        return number

    def progress_step(
        self,
        step: int,
        done: int,
        total: int | None = None,
        label: str = "",
        *,
        parameters: int = 0,
        parameters_total: int | None = None,
        bytes_done: int = 0,
        bytes_total: int | None = None,
    ) -> None:
        """Records a step's progress; from any thread."""
        self.moved_ns = time.monotonic_ns()
        self.record(
            ev.StepProgressed(
                step=step,
                done=done,
                total=total,
                label=label,
                parameters=parameters,
                parameters_total=parameters_total,
                bytes=bytes_done,
                bytes_total=bytes_total,
            )
        )

    def end_step(self, step: int, error: str | None = None) -> None:
        """Records that a step returned, or raised `error`."""
        stack: list[int] = self._stack.__dict__.setdefault("steps", [])
        if step in stack:
            del stack[stack.index(step) :]
        self.moved_ns = time.monotonic_ns()
        # A supervising thread may already have ended it.
        if self.retained.drop(ev.StepStarted, step):
            self.record(ev.StepEnded(step=step, error=error))

    # ---- what depends on earlier events -------------------------------------------------

    def plan_init(self, planned: ev.InitPlanned) -> ev.InitPlanned:
        """Records an initialization that is about to begin, with the next number."""
        before = self.retained.get(ev.InitPlanned)
        numbered = msgspec.structs.replace(planned, number=before.number + 1 if before else 1)
        self.record(numbered)
        return numbered

    def amend_group(self, pg_name: str, **known: Any) -> None:
        """Records what became known about a group after its creation: its axis, a new timeout."""
        held = self.retained.get(ev.GroupCreated, pg_name)
        if held is not None:
            self.record_news(msgspec.structs.replace(held, **known))

    def site_number(self, code: CodeType, line: int, caller: str = "", called_from: int = 0) -> int:
        """A small number for a line of source and who calls from there; 0 when there are too many.

        Args:
            called_from: the number of the line that called this function; 0 where it is not known.
        """
        key = (code, line, caller, called_from)
        number = self._sites.get(key)
        if number is None:
            if len(self._sites) >= SITES_NUMBERED:
                return 0
            number = self._sites[key] = len(self._sites) + 1
            site = ev.Site(file=code.co_filename, line=line, function=code.co_name, caller=caller)
            self.record(ev.SiteSeen(number=number, site=site, called_from=called_from))
        return number
