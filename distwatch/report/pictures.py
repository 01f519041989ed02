"""What a report's page draws: who waits for whom, and the last minutes of each rank as a strip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from itertools import groupby

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.diagnosis.facts.wait_for import WaitGraph
from distwatch.redaction import redact_text
from distwatch.state.statuses import status_of
from distwatch.views.activity_strip import SpanKind, cells_of, strip_of
from distwatch.views.wait_drawing import WaitDrawing, draw_waits

CELLS = 160
STRIPS = 32
WINDOW_NS = 300_000_000_000
_EACH = 64
"""Of more ranks, those with one status at one place share the strip of the first."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Neighbouring cells of one kind."""

    kind: SpanKind
    cells: int


class StripRow(msgspec.Struct, frozen=True, kw_only=True):
    """One strip, and the ranks that it is drawn for."""

    global_ranks: tuple[int, ...]
    blamed: bool
    stretches: tuple[Stretch, ...]


class Pictures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is drawn and is not in report.json."""

    waits: WaitDrawing
    strips: tuple[StripRow, ...]
    strips_left_out: int
    window_s: float
    """How much time the strips show, up to the newest event."""


def draw_pictures(
    job: Job, graph: WaitGraph, statuses: Sequence[RankStatus], culprits: Set[int]
) -> Pictures:
    """Draws a job as it is now; texts are redacted."""
    waits = draw_waits(job, graph, statuses, culprits)
    hosts = job.state.hosts.values()
    to_ns = max((host.now_ns + host.wall_offset_ns for host in hosts), default=0)
    groups = list(_groups(statuses, culprits))
    strips = {group[0]: strip_of(job, group[0]) for group in groups[:STRIPS]}
    starts = [strip.began_ns for strip in strips.values() if strip.began_ns is not None]
    from_ns = max(to_ns - WINDOW_NS, min(starts, default=to_ns - WINDOW_NS))
    rows: dict[tuple[bool, tuple[Stretch, ...]], list[int]] = {}
    for group in groups[:STRIPS]:
        cells = cells_of(strips[group[0]], from_ns, to_ns, CELLS)
        rows.setdefault((group[0] in culprits, _stretches(cells)), []).extend(group)
    return Pictures(
        waits=_redacted(waits),
        strips=tuple(
            StripRow(global_ranks=tuple(sorted(ranks)), blamed=blamed, stretches=stretches)
            for (blamed, stretches), ranks in rows.items()
        ),
        strips_left_out=max(0, len(groups) - STRIPS),
        window_s=(to_ns - from_ns) / 1e9,
    )


def _groups(statuses: Sequence[RankStatus], culprits: Set[int]) -> Iterable[list[int]]:
    """Ranks that share a strip: the blamed first, then the most urgent."""
    alike: dict[object, list[RankStatus]] = {}
    for status in statuses:
        same = (status.word, status.doing, status.where, status.global_rank in culprits)
        each = status.global_rank if len(statuses) <= _EACH else None
        alike.setdefault((same, each), []).append(status)
    ordered = sorted(
        alike.values(),
        key=lambda group: (group[0].global_rank not in culprits, status_of(group[0].word).urgency),
    )
    return ([status.global_rank for status in group] for group in ordered)


def _stretches(cells: list[SpanKind]) -> tuple[Stretch, ...]:
    return tuple(Stretch(kind=kind, cells=len(list(run))) for kind, run in groupby(cells))


def _redacted(waits: WaitDrawing) -> WaitDrawing:
    replace = msgspec.structs.replace
    return replace(
        waits,
        boxes=tuple(
            replace(box, doing=redact_text(box.doing), source=redact_text(box.source))
            for box in waits.boxes
        ),
        links=tuple(replace(link, what=redact_text(link.what)) for link in waits.links),
    )
