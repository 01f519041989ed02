"""One line of text for each kind of event, for timelines."""

from __future__ import annotations

from typing import Any

from distwatch.diagnosis.signals import exit_text
from distwatch.state import events as ev
from distwatch.state.rank_sets import format_ranks


def event_text(event: ev.AnyEvent | ev.UnknownEvent) -> str:
    """What happened, in one line; an unknown kind by its name."""
    if isinstance(event, ev.UnknownEvent):
        return f"{event.kind} (an event of a newer distwatch)"
    teller = _TELLERS.get(type(event))
    return teller(event) if teller else type(event).__name__


def _step_started(event: ev.StepStarted) -> str:
    label = f" ({event.label})" if event.label else ""
    deadline = f", deadline {event.deadline_s:g} s" if event.deadline_s else ""
    return f"{event.name} began{label}{deadline}"


def _step_progressed(event: ev.StepProgressed) -> str:
    total = f" of {event.total}" if event.total else ""
    return f"step {event.step}: {event.done}{total} {event.label}".rstrip()


def _stack(event: ev.StackTaken) -> str:
    return (
        f"no stack: {event.error}" if event.error else f"stack taken ({len(event.threads)} threads)"
    )


def _judged(event: ev.FindingsJudged) -> str:
    if not event.findings:
        return "verdict: no findings"
    first = event.findings[0]
    return f"verdict: {first.code}: {first.summary}"


_TELLERS: dict[type, Any] = {
    ev.ProcessStarted: lambda e: f"agent started, pid {e.pid}, {e.role} ({e.identity.launcher})",
    ev.IdentityClaimed: lambda e: f"says it is rank {e.global_rank}",
    ev.IdentityConfirmed: lambda e: f"is rank {e.global_rank} of {e.world_size}",
    ev.IntegrationChanged: lambda e: f"{e.name} {e.status}{': ' + e.reason if e.reason else ''}",
    ev.StepStarted: _step_started,
    ev.StepProgressed: _step_progressed,
    ev.StepEnded: lambda e: f"step {e.step} {'failed: ' + e.error if e.error else 'ended'}",
    ev.GroupCreated: lambda e: (
        f"group {e.pg_name} {e.pg_desc} of ranks {format_ranks(e.members)} ({e.backend})"
    ),
    ev.GroupCalled: lambda e: f"calls new_group #{e.number}",
    ev.GroupDestroyed: lambda e: f"destroyed {'group ' + e.pg_name if e.pg_name else 'all groups'}",
    ev.CollectivesDumped: lambda e: (
        f"flight recorder dumped ({len(e.entries)} entries): {e.reason}"
    ),
    ev.ExceptionUncaught: lambda e: f"uncaught {e.type_name}: {e.message}"[:300],
    ev.ProcessEnding: lambda e: "the interpreter shuts down in order",
    ev.HookFailed: lambda e: f"hook {e.hook} failed and is off: {e.error}",
    ev.Snapshot: lambda e: "the ring began a new lap",
    ev.ObserverStarted: lambda e: (
        f"observer started, pid {e.pid}{' (embedded)' if e.embedded else ''}"
    ),
    ev.ObserverEnded: lambda e: f"observer ended: {e.reason}",
    ev.ProcessSighted: lambda e: f"seen: pid {e.pid}, {e.role}",
    ev.ExitSeen: lambda e: exit_text(e) + (f"; {e.oom_killed}" if e.oom_killed else ""),
    ev.StackTaken: _stack,
    ev.NotObserved: lambda e: f"not observed: {e.what}: {e.why}",
    ev.FindingsJudged: _judged,
}
