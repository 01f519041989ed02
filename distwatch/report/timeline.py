"""What happened, event by event for programs, and folded over ranks for people."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import msgspec

from distwatch.redaction import redact_text
from distwatch.state import events as ev
from distwatch.state.model import RunState, TimelineEntry
from distwatch.state.rank_sets import name_ranks
from distwatch.views.event_text import event_kind, event_text

TIMELINE_KEPT = 400
_NOISE = frozenset({"step progressed", "process sighted"})
_Steps = dict[tuple[str, int], str]


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
    steps: _Steps = {}
    found: list[Happening] = []
    for entry in state.timeline:
        text = _text(entry, steps)
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
    groups: list[tuple[Happening, set[int]]] = []
    newest: dict[tuple[str, str], set[int]] = {}
    for one in happenings:
        if one.kind in _NOISE or (one.kind == "integration changed" and "failed" not in one.text):
            continue
        ranks = newest.get((one.kind, one.text))
        if one.global_rank is None or ranks is None or one.global_rank in ranks:
            ranks = newest[one.kind, one.text] = set()
            groups.append((one, ranks))
        if one.global_rank is not None:
            ranks.add(one.global_rank)
    return list(_told(groups))


def _told(groups: list[tuple[Happening, set[int]]]) -> Iterator[FoldedHappening]:
    for one, ranks in groups:
        who = name_ranks(sorted(ranks)) if ranks else one.host
        yield FoldedHappening(time=one.time, who=who, kind=one.kind, text=one.text)


def _text(entry: TimelineEntry, steps: _Steps) -> str:
    event, text = entry.event, event_text(entry.event)
    if isinstance(event, ev.StepStarted):
        label = f" {event.label}" if event.label else ""
        steps[entry.process, event.step] = f"{event.name}{label}"
    elif isinstance(event, ev.StepEnded | ev.StepProgressed | ev.LoadPlanned | ev.ModelPlaced):
        name = steps.get((entry.process, event.step))
        return text.replace(f"step {event.step}", name, 1) if name else text
    return text
