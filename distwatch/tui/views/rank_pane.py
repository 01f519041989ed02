"""The pane beside a list: what one rank does, the innermost frame with its source line first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.diagnosis.facts.user_frame import is_of_library, work_frames
from distwatch.state.events import Frame
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.tui.cells import format_age, format_bytes, state_cell
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, CULPRIT, FAINT, GREEN, MUTED, RED, STRONG, UNKNOWN, YELLOW
from distwatch.tui.trends import Trends
from distwatch.tui.views.line import join_lines, section
from distwatch.tui.views.process_detail import (
    end_lines,
    exception_lines,
    operation_lines,
    step_lines,
)
from distwatch.tui.views.sparkline import sparkline
from distwatch.tui.views.timeline import Window, strip_text
from distwatch.tui.visible_text import Text
from distwatch.views.activity_strip import bytes_of, rates_of

_STEPS = 5
_OPERATIONS = 6
_SPARKS, _LEAST_SPARKS = 24, 8
_BESIDE_SPARKS = 26
"""What stands beside a sparkline: `calls/s ` and ` 12345.6  last minute`."""
_SPARK_WINDOW_NS = 60_000_000_000
_EVIDENCE = 8


def rank_pane(
    picture: Picture, global_rank: int, window: Window, trends: Trends, width: int
) -> Text | None:
    """One rank in a narrow pane: state, strip, waits, stack with source, steps, evidence."""
    status = picture.status(global_rank)
    if status is None:
        return None
    process = picture.process(global_rank)
    lines = [*_head(picture, status)]
    if process is None:
        return join_lines([*lines, Text("no process of this rank was ever seen", YELLOW)])
    host = picture.state.hosts.get(process.host)
    now_ns = host.now_ns if host else process.last_ns
    lines += [Text(), strip_text(picture, global_rank, window, max(8, width))]
    lines += _pace(process, trends, now_ns, width)
    lines += section("waits", list(_waits(picture, global_rank)))
    lines += section("exception", list(exception_lines(process)))
    lines += section("end", list(end_lines(process)))
    lines += section(_stack_title(process, now_ns), list(_stack(picture, process)))
    lines += section("steps", list(step_lines(process, now_ns, outermost=True))[-_STEPS:])
    lines += section("last operations", list(operation_lines(process, now_ns))[-_OPERATIONS:])
    lines += section("evidence", list(_evidence(picture, global_rank)))
    return join_lines(lines)


def _head(picture: Picture, status: RankStatus) -> Iterator[Text]:
    head = Text.assemble((f"rank {status.global_rank}", STRONG), "  ", state_cell(status))
    if status.since_s is not None:
        head.append(f" for {format_age(status.since_s)}", YELLOW if status.blocked else MUTED)
    if status.global_rank in picture.culprits:
        head.append(f"  {CULPRIT} blamed", f"bold {RED}")
    yield head
    yield Text(status.doing or UNKNOWN)
    if status.where:
        yield Text.assemble("at ", (status.where, STRONG))


def _pace(process: Process, trends: Trends, now_ns: int, width: int) -> Iterator[Text]:
    """How fast its collectives come, and what the machine says about its process."""
    count = max(_LEAST_SPARKS, min(_SPARKS, width - _BESIDE_SPARKS))
    calls = rates_of(process, count, _SPARK_WINDOW_NS, now_ns)
    if any(rate is not None for rate in calls):
        yield _spark("calls/s", calls, f"{_newest(calls):.1f}  last minute")
        moved = rates_of(process, count, _SPARK_WINDOW_NS, now_ns, bytes_of)
        if any(moved):
            yield _spark("bytes/s", moved, format_bytes(int(_newest(moved))))
    if used := trends.cpu(process)[-count:]:
        yield _spark("CPU", used, f"{used[-1]:.0%}", max(1.0, *used))
    if files := trends.file_bytes(process)[-count:]:
        yield _spark("files/s", files, format_bytes(int(files[-1])))
    sample = process.outside.sample
    memory = f"{format_bytes(sample.rss_bytes)} · " if sample else ""
    cpu = f"{sample.cpu_s:.0f} s of CPU · " if sample and sample.cpu_s is not None else ""
    yield Text(f"{cpu}{memory}pid {process.pid} on {process.host}", MUTED)


def _spark(name: str, values: Sequence[float | None], said: str, most: float | None = None) -> Text:
    return Text.assemble((f"{name:<8}", MUTED), sparkline(values, most), f" {said}")


def _newest(values: Sequence[float | None]) -> float:
    return next((value for value in reversed(values) if value is not None), 0.0)


def _waits(picture: Picture, global_rank: int) -> Iterator[Text]:
    drawing = picture.waits
    own = next((box for box in drawing.boxes if global_rank in box.global_ranks), None)
    if own is None:
        return
    boxes = {box.number: box for box in drawing.boxes}
    for link in drawing.links:
        if link.waiter == own.number:
            ranks = boxes[link.awaited].global_ranks
            yield Text.assemble(
                ("▶ ", RED), "waits for ", (name_ranks(ranks), STRONG), f" in {link.what}",
                (f" · {seconds(link.waited_s)}", YELLOW),
            )  # fmt: skip
    for link in drawing.waiters_of(own.number):
        ranks = boxes[link.waiter].global_ranks
        verb = agree(ranks, "waits", "wait")
        yield Text.assemble(
            ("◀ ", YELLOW), (name_ranks(ranks), STRONG), f" {verb} for it in {link.what}",
            (f" · {seconds(link.waited_s)}", YELLOW),
        )  # fmt: skip


def _stack_title(process: Process, now_ns: int) -> str:
    if process.outside.stack_ns is None:
        return "stack"
    return f"stack, innermost first, {seconds(max(0, now_ns - process.outside.stack_ns) / 1e9)} old"


def _stack(picture: Picture, process: Process) -> Iterable[Text]:
    frames = work_frames(process)
    if not frames:
        why = process.outside.not_observed.get("stack", "none was taken; press d to take it now")
        yield Text(f"not observed: {why}", MUTED)
    for library, run in groupby(reversed(frames), key=is_of_library):
        here = list(run)
        if library:
            yield _library(here)
        for frame in () if library else here:
            yield from _frame(picture, frame)


def _library(frames: list[Frame]) -> Text:
    """Frames of libraries in one line: `all_reduce  torch/distributed/distributed_c10d.py:2810  +3`."""
    inner = frames[0]
    place = "/".join(inner.file.rsplit("/", 3)[-3:])
    more = f"  +{len(frames) - 1}" if len(frames) > 1 else ""
    line = f":{inner.line}" if inner.line else ""
    return Text.assemble((inner.function, MUTED), (f"  {place}{line}{more}", FAINT))


def _frame(picture: Picture, frame: Frame) -> Iterator[Text]:
    name = frame.file.rpartition("/")[2]
    yield Text.assemble((f"{name}:{frame.line}", f"bold {BLUE}"), (f" in {frame.function}", STRONG))
    if source := picture.state.sources.get((frame.file, frame.line)):
        yield Text.assemble(("  │ ", FAINT), (source.strip(), GREEN))


def _evidence(picture: Picture, global_rank: int) -> Iterator[Text]:
    told = 0
    for finding in picture.shown_findings:
        for evidence in finding.evidence:
            if evidence.global_rank == global_rank and told < _EVIDENCE:
                told += 1
                yield Text.assemble((f"{evidence.source}: ", BLUE), evidence.text.splitlines()[0])
