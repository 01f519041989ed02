"""What happened, event by event for programs, and folded over ranks for people."""

from __future__ import annotations

import datetime

import msgspec

from distwatch.redaction import redact_text
from distwatch.state.model import RunState
from distwatch.state.rank_sets import name_ranks
from distwatch.views.event_fold import Told, fold, is_hook, named_texts
from distwatch.views.event_text import event_kind

TIMELINE_KEPT = 400


class Happening(msgspec.Struct, kw_only=True):
    time: str
    host: str
    global_rank: int | None
    process: str
    kind: str
    text: str


class FoldedHappening(msgspec.Struct, kw_only=True):
    """The same of several ranks, at the time of the first."""

    time: str
    who: str
    kind: str
    text: str


def happenings_of(state: RunState) -> list[Happening]:
    """The newest TIMELINE_KEPT events; steps are called by their names."""
    found: list[Happening] = []
    for entry, text in named_texts(state.timeline):
        process = state.processes.get(entry.process)
        found.append(
            Happening(
                time=wall_text(state.wall_ns(entry.host, entry.time_ns)),
                host=entry.host,
                global_rank=process.global_rank if process else None,
                process=entry.process,
                kind=event_kind(entry.event),
                text=redact_text(text),
            )
        )
    return found[-TIMELINE_KEPT:]


def wall_text(wall_ns: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(wall_ns / 1e9, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def folded(happenings: list[Happening]) -> list[FoldedHappening]:
    """Without what only counts, and with the ranks together to which the same has happened."""
    told = (
        Told(kind=h.kind, text=h.text, global_rank=h.global_rank, process=h.process, source=h)
        for h in happenings
    )
    return [
        FoldedHappening(
            time=one.source.time,
            who=name_ranks(one.global_ranks) if one.global_ranks else one.source.host,
            kind=one.kind,
            text=one.text,
        )
        for one in fold(event for event in told if not is_hook(event))
    ]
