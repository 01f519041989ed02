"""The incidents that a run has had, also those that are over: what stopped an attempt before this one."""

from __future__ import annotations

import msgspec

from distwatch.redaction import redact_text
from distwatch.report.timeline import wall_text
from distwatch.state.events import FindingsJudged
from distwatch.state.host import Stamp
from distwatch.state.model import RunState
from distwatch.views.event_text import ABORTED

INCIDENTS_TOLD = 64


class Incident(msgspec.Struct, kw_only=True):
    """One folder below the run's `incidents`."""

    number: int
    host: str
    """The host of the observer that has written it."""
    at: str
    """When its verdict was last judged."""
    severity: str
    code: str
    summary: str
    culprit_ranks: tuple[int, ...]
    attempt: int | None
    """The launcher's count of restarts before its culprits were started; None where that is not known."""
    current: bool
    """Whether it is what the run suffers from now."""
    ended: dict[str, str] = {}
    """What DISTWATCH_ON_HANG=abort did, by rank."""


def incidents_of(state: RunState) -> list[Incident]:
    """The newest incidents, the oldest of them first; with several hosts, those about the whole run."""
    told = [
        _incident(state, event, stamp)
        for stamp, event in state.incidents.values()
        if not (event.of_one_host and len(state.hosts) > 1)
    ]
    return sorted(told, key=lambda one: (one.at, one.number))[-INCIDENTS_TOLD:]


def _incident(state: RunState, event: FindingsJudged, stamp: Stamp) -> Incident:
    root = event.findings[0]
    ended = {
        str(process.global_rank): ABORTED[order.how]
        for process in state.processes.values()
        if (order := process.outside.aborted) and order.incident == event.incident
    }
    return Incident(
        number=event.incident or 0,
        host=event.host,
        at=wall_text(state.wall_ns(event.host, stamp[0])),
        severity=root.severity,
        code=root.code,
        summary=redact_text(root.summary),
        culprit_ranks=root.culprit_ranks,
        attempt=_attempt(state, event, stamp[0]),
        current=stamp == state.judged_stamp,
        ended=ended,
    )


def _attempt(state: RunState, event: FindingsJudged, time_ns: int) -> int | None:
    """By the newest processes that had come by then."""
    restarts = [
        process.identity.restart
        for process in state.processes.values()
        if process.host == event.host
        and process.global_rank is not None
        and process.started_ns is not None
        and process.started_ns <= time_ns
    ]
    return max((restart for restart in restarts if restart is not None), default=None)
