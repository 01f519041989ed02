"""View 5: the timeline, newest at the bottom, on the wall clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.text import Text

from distwatch.state import events as ev
from distwatch.state.model import TimelineEntry
from distwatch.state.rank_sets import format_ranks
from distwatch.tui.cells import count_of, fit, format_clock
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, FAINT, MUTED, RED, YELLOW
from distwatch.tui.views.line import Line

EMPTY = "no events read yet"

_STYLES: dict[type, str] = {
    ev.ExceptionUncaught: RED,
    ev.ExitSeen: RED,
    ev.HookFailed: YELLOW,
    ev.NotObserved: YELLOW,
    ev.FindingsJudged: BLUE,
}


def lines(picture: Picture) -> list[Line]:
    """One line an event, oldest first."""
    ranks = picture.ranks_by_process()
    return [
        Line(
            key=f"event:{entry.stream}:{entry.seq}",
            draw=partial(_draw, entry, picture.wall_ns(entry), _who(picture, entry, ranks)),
            ranks=(ranks[entry.process],) if entry.process in ranks else None,
        )
        for entry in picture.state.timeline
    ]


def find_entry(picture: Picture, key: str) -> TimelineEntry | None:
    stream, _, seq = key.partition(":")[2].rpartition(":")
    entries = picture.state.timeline
    return next((e for e in entries if e.stream == stream and str(e.seq) == seq), None)


def _who(picture: Picture, entry: TimelineEntry, ranks: dict[str, int]) -> str:
    if entry.process in ranks:
        return f"rank {ranks[entry.process]}"
    process = picture.state.processes.get(entry.process)
    return f"pid {process.pid}" if process is not None and process.pid else "observer"


def _draw(entry: TimelineEntry, wall_ns: int, who: str, width: int) -> Text:
    kind, text = describe(entry.event)
    line = Text.assemble(
        (f"{format_clock(wall_ns)}  ", MUTED),
        fit(Text(who), 9), "  ",
        fit(Text(kind, _STYLES.get(type(entry.event), FAINT)), 20 if width >= 100 else 16), " ",
        (text, _STYLES.get(type(entry.event), "")),
    )  # fmt: skip
    return fit(line, width)


def describe(event: ev.AnyEvent | ev.UnknownEvent) -> tuple[str, str]:
    """(kind in words, what happened)."""
    if isinstance(event, ev.UnknownEvent):
        return event.kind.replace("_", " "), "an event of a newer distwatch"
    kind = str(event.__struct_config__.tag).replace("_", " ")
    teller = _TELLERS.get(type(event))
    return kind, teller(event) if teller else ""


def _step(event: ev.StepStarted) -> str:
    label = f" ({event.label})" if event.label else ""
    limit = f", deadline {event.deadline_s:.0f} s" if event.deadline_s is not None else ""
    site = f" at {event.site}" if event.site else ""
    return f"{event.name}{label}{limit}{site}"


def _progress(event: ev.StepProgressed) -> str:
    total = f" of {event.total}" if event.total is not None else ""
    return f"step {event.step}: {event.done}{total} {event.label}".rstrip()


def _exit(event: ev.ExitSeen) -> str:
    if event.signal is not None:
        status = f"killed by signal {event.signal}"
    elif event.exit_code is not None:
        status = f"exit code {event.exit_code}"
    else:
        status = "ended; its exit status was not observed"
    return f"{status}{'; ' + event.oom_killed if event.oom_killed else ''}"


def _group(event: ev.GroupCreated) -> str:
    title = event.pg_desc or event.pg_name
    return f"{title} ({event.backend}) of ranks {format_ranks(event.members) or 'not known'}"


def _called(event: ev.GroupCalled) -> str:
    members = "all" if event.members is None else format_ranks(event.members)
    return f"new_group call {event.number} of ranks {members}{f' at {event.site}' if event.site else ''}"


def _findings(event: ev.FindingsJudged) -> str:
    if not event.findings:
        return "nothing is wrong any more"
    more = f" (+{len(event.findings) - 1})" if len(event.findings) > 1 else ""
    return f"{event.findings[0].code}: {event.findings[0].summary}{more}"


_TELLERS: dict[type, Callable[[Any], str]] = {
    ev.ProcessStarted: lambda e: f"{e.role} pid {e.pid}  {' '.join(e.command)}".rstrip(),
    ev.IdentityConfirmed: lambda e: f"rank {e.global_rank} of {e.world_size}",
    ev.IntegrationChanged: lambda e: f"{e.name} {e.status}{': ' + e.reason if e.reason else ''}",
    ev.StepStarted: _step,
    ev.StepProgressed: _progress,
    ev.StepEnded: lambda e: f"step {e.step}" + (f" failed: {e.error}" if e.error else " done"),
    ev.GroupCreated: _group,
    ev.GroupCalled: _called,
    ev.GroupDestroyed: lambda e: e.pg_name or "all groups",
    ev.CollectivesDumped: lambda e: (
        f"{count_of(len(e.entries), 'collective')}, {e.reason}"
        if not e.not_observed
        else f"not observed: {e.not_observed}"
    ),
    ev.ExceptionUncaught: lambda e: f"{e.type_name}: {e.message}",
    ev.ProcessEnding: lambda e: e.reason,
    ev.HookFailed: lambda e: f"{e.hook}: {e.error}",
    ev.Snapshot: lambda e: f"{count_of(len(e.steps), 'open step')}, {e.dropped} dropped",
    ev.ObserverStarted: lambda e: f"pid {e.pid}{' (embedded)' if e.embedded else ''}",
    ev.ObserverEnded: lambda e: e.reason,
    ev.ProcessSighted: lambda e: f"{e.role} pid {e.pid}  {' '.join(e.command)}".rstrip(),
    ev.ExitSeen: _exit,
    ev.StackTaken: lambda e: (
        f"{count_of(len(e.threads), 'thread')} by {e.source}" if not e.error else e.error
    ),
    ev.NotObserved: lambda e: f"{e.what}: {e.why}",
    ev.FindingsJudged: _findings,
}
