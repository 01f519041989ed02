"""Spans on the tracks of a trace: on one track, spans follow each other or nest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A timed span in a process. Times are wall-clock ns."""

    process: str
    track: str
    name: str
    begin_ns: int
    end_ns: int
    args: dict[str, Any] = {}


def lay_out_tracks(spans: list[Span], numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Spans as complete events, and the names of their tracks.

    Spans that overlap without nesting, as calls of two threads under one name may, go to a further
    track of that name: no viewer shows them on one track.

    Args:
        numbers: the trace's number of each process.
    """
    by_track: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        by_track.setdefault((span.process, span.track), []).append(span)
    threads: dict[str, int] = {}
    for (process, track), held in by_track.items():
        for place, lane in enumerate(_lanes(held)):
            thread = threads[process] = threads.get(process, 0) + 1
            name = track if not place else f"{track} ({place + 1})"
            where = {"pid": numbers[process], "tid": thread}
            yield {"ph": "M", "name": "thread_name", **where, "args": {"name": name}}
            for span in lane:
                yield {
                    "ph": "X", "name": span.name, "cat": track, **where,
                    "ts": span.begin_ns, "dur": max(0, span.end_ns - span.begin_ns), "args": span.args,
                }  # fmt: skip


def _lanes(spans: Iterable[Span]) -> list[list[Span]]:
    lanes: list[list[Span]] = []
    open_ends: list[list[int]] = []
    for span in sorted(spans, key=lambda span: (span.begin_ns, -span.end_ns)):
        for lane, ends in zip(lanes, open_ends, strict=True):
            while ends and ends[-1] <= span.begin_ns:
                ends.pop()
            if not ends or span.end_ns <= ends[-1]:
                lane.append(span)
                ends.append(span.end_ns)
                break
        else:
            lanes.append([span])
            open_ends.append([span.end_ns])
    return lanes
