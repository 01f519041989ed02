"""A run as a trace in Chrome's trace-event format, which Perfetto and chrome://tracing open.

A process of the job is a process of the trace. Its tracks are its threads' steps, its steps of training (a
counter, too), its collectives as Python called them, and those in torch's flight recorder. Verdicts are
instants over all processes. Hosts are aligned by their wall clocks, which may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from distwatch.diagnosis.facts.operations import operation_name
from distwatch.redaction import redact_text
from distwatch.report.timeline import wall_text
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import Process, RunState
from distwatch.state.recorder_entries import Collective
from distwatch.views.event_text import event_kind, event_text

SCHEMA = "distwatch.trace/1"
COLLECTIVES = "collectives"
TRAINING = "training"
_COUNTER = "training step"
_VERDICTS = 0
"""The trace's process number for what is about the whole run."""
_OWN, _RECORDER = 0, 1_000_000
"""Track numbers of instants: spans have numbers from 1."""
_TRACKS = {_OWN: "process", _RECORDER: "flight recorder"}


class RunEvent(msgspec.Struct, frozen=True):
    """One event, its stream, and its time on its host's clock (ns)."""

    stream: str
    time_ns: int
    event: ev.Event


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A timed span in a process. Times are wall-clock ns."""

    process: str
    track: str
    name: str
    begin_ns: int
    end_ns: int
    args: dict[str, Any] = {}


class _Step(msgspec.Struct):
    started: ev.StepStarted
    began_ns: int
    ended_ns: int | None = None
    error: str | None = None
    done: int = 0
    total: int | None = None


class Trace:
    """The contents of a trace, collected from a run's events. `state` is the run that they fold to."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._steps: dict[tuple[str, int], _Step] = {}
        self._operations: dict[tuple[str, int], ev.Operation] = {}
        self._training: dict[str, dict[int, ev.TrainingStep]] = {}
        """By process and number, the steps of training that were seen: a fast one comes between two looks."""
        self._recorded: dict[tuple[str, str, int, str], Collective] = {}
        self._ends: list[RunEvent] = []
        self._verdicts: list[RunEvent] = []

    def take(self, happened: RunEvent) -> None:
        """Keeps an event if a trace shows it; each process's events in their order."""
        event, stream = happened.event, happened.stream
        if isinstance(event, ev.StepStarted):
            self._begin(stream, happened.time_ns, event)
        elif isinstance(event, ev.Snapshot):
            for began_ns, kept in event.kept:
                if isinstance(kept, ev.StepStarted):
                    self._begin(stream, began_ns, kept)
        elif isinstance(event, ev.StepProgressed):
            if step := self._steps.get((stream, event.step)):
                step.done, step.total = event.done, event.total or step.total
        elif isinstance(event, ev.StepEnded):
            if step := self._steps.get((stream, event.step)):
                step.ended_ns, step.error = happened.time_ns, event.error
        elif isinstance(event, ev.CollectivesDumped):
            for entry in event.entries:
                self._recorded[stream, entry.pg_name, entry.seq, entry.op] = entry
        elif isinstance(event, ev.PulseRead):
            for operation in event.operations:
                self._enter(event.process, operation)
            if (at := event.pulse.training) is not None and at.began_ns:
                self._training.setdefault(event.process, {})[at.step] = at
        elif isinstance(event, ev.ExitSeen | ev.ExceptionUncaught):
            self._ends.append(happened)
        elif isinstance(event, ev.FindingsJudged) and event.findings:
            self._verdicts.append(happened)

    def _begin(self, stream: str, began_ns: int, started: ev.StepStarted) -> None:
        self._steps.setdefault((stream, started.step), _Step(started, began_ns))

    def _enter(self, process: str, operation: ev.Operation) -> None:
        seen = self._operations.get((process, operation.number))
        if seen is None or not seen.left_ns:
            self._operations[process, operation.number] = operation

    # ---- the document --------------------------------------------------------------------

    def document(self, findings: Iterable[Finding], run_id: str) -> dict[str, Any]:
        """The document as plain data. Times are µs since the first of them."""
        processes = sorted(self._state.processes.values(), key=_order)
        numbers = {process.key: n for n, process in enumerate(processes, _VERDICTS + 1)}
        spans = [span for span in self.spans() if span.process in numbers]
        events = [
            *_lay_out_tracks(spans, numbers),
            *self._instants(numbers),
            *self._counters(numbers),
            *self._judged(list(findings)),
        ]
        origin_ns = min((event["ts"] for event in events if "ts" in event), default=0)
        for event in events:
            for name in ("ts", "dur"):
                if name in event:
                    event[name] = (event[name] - (origin_ns if name == "ts" else 0)) / 1000
        return {
            "schema": SCHEMA,
            "displayTimeUnit": "ms",
            "otherData": {"run": run_id, "started": wall_text(origin_ns)},
            "traceEvents": [*_names(processes, numbers), *events],
        }

    def _now(self, process: Process) -> int:
        """The end of what has not ended: the process's end, else the newest time seen."""
        host = self._state.hosts.get(process.host)
        return process.ended_ns or (host.now_ns if host else process.last_ns)

    def spans(self) -> Iterable[Span]:
        """Steps, and collectives as Python called them."""
        for (key, _), step in self._steps.items():
            if process := self._state.processes.get(key):
                yield self._step_span(process, step)
        for (key, _), operation in self._operations.items():
            if process := self._state.processes.get(key):
                yield self._operation_span(process, operation)
        for key, seen in self._training.items():
            if process := self._state.processes.get(key):
                yield from self._training_spans(process, seen)

    def _span(
        self, process: Process, track: str, name: str, began_ns: int, ended_ns: int | None, args: dict[str, Any]
    ) -> Span:  # fmt: skip
        until = ended_ns if ended_ns is not None else max(self._now(process), began_ns)
        return Span(
            process=process.key,
            track=track,
            name=name,
            begin_ns=self._state.wall_ns(process.host, began_ns),
            end_ns=self._state.wall_ns(process.host, until),
            args={**args, **({} if ended_ns is not None else {"ended": False})},
        )

    def _step_span(self, process: Process, step: _Step) -> Span:
        started = step.started
        args: dict[str, Any] = {}
        if started.label:
            args["label"] = redact_text(started.label)
        if started.site is not None:
            args["at"] = str(started.site)
        if started.deadline_s is not None:
            args["deadline_s"] = started.deadline_s
        if total := step.total or started.total:
            args |= {"done": step.done, "total": total}
        if step.error is not None:
            args["error"] = redact_text(step.error)
        return self._span(
            process, started.thread or "main", started.name, step.began_ns, step.ended_ns, args
        )

    def _training_spans(self, process: Process, seen: dict[int, ev.TrainingStep]) -> Iterator[Span]:
        """From the beginning of each seen step to that of the next one."""
        steps = sorted(seen.values(), key=lambda one: one.began_ns)
        for number, one in enumerate(steps):
            after = steps[number + 1] if number + 1 < len(steps) else None
            last = after.step - 1 if after is not None else one.step
            name = f"step {one.step}" if last <= one.step else f"steps {one.step} to {last}"
            args: dict[str, Any] = {"usual_s": one.usual_s} if one.usual_s else {}
            if one.epoch is not None:
                args["epoch"] = one.epoch
            ended_ns = after.began_ns if after is not None else None
            yield self._span(process, TRAINING, name, one.began_ns, ended_ns, args)

    def _counters(self, numbers: dict[str, int]) -> Iterable[dict[str, Any]]:
        for key, seen in self._training.items():
            for one in seen.values() if key in numbers else ():
                at_ns = self._state.wall_ns(self._state.processes[key].host, one.began_ns)
                where = {"pid": numbers[key], "tid": _OWN}
                yield {
                    "ph": "C",
                    **where,
                    "name": _COUNTER,
                    "ts": at_ns,
                    "args": {"step": one.step},
                }

    def _operation_span(self, process: Process, operation: ev.Operation) -> Span:
        number = operation.seq if operation.seq >= 0 else operation.p2p_seq
        name = operation_name(operation.op) + (f" #{number}" if number >= 0 else "")
        args: dict[str, Any] = {"group": _group_title(process, operation.pg_name)}
        if operation.numel >= 0:
            args |= {"numel": operation.numel, "dtype": operation.dtype}
        if operation.peer >= 0:
            args["peer"] = operation.peer
        if site := process.sites.get(operation.site):
            args["at"] = str(site)
        left_ns = operation.left_ns or None
        return self._span(process, COLLECTIVES, name, operation.entered_ns, left_ns, args)

    def _instants(self, numbers: dict[str, int]) -> Iterable[dict[str, Any]]:
        for (key, *_), entry in self._recorded.items():
            if key in numbers and entry.created_wall_ns:
                process = self._state.processes[key]
                args = {"group": _group_title(process, entry.pg_name), "retired": entry.retired}
                name = f"{operation_name(entry.op)} #{entry.seq}"
                yield _instant(numbers[key], _RECORDER, name, entry.created_wall_ns, args)
        for happened in self._ends:
            key = (
                happened.event.process
                if isinstance(happened.event, ev.ExitSeen)
                else happened.stream
            )
            if key in numbers:
                at = self._state.wall_ns(self._state.processes[key].host, happened.time_ns)
                text = redact_text(event_text(happened.event))
                yield _instant(numbers[key], _OWN, event_kind(happened.event), at, {"text": text})

    def _judged(self, findings: list[Finding]) -> Iterable[dict[str, Any]]:
        """Verdicts at their times; at the end, the current one where no observer wrote it."""
        for happened in self._verdicts:
            if isinstance(happened.event, ev.FindingsJudged):
                at = self._state.wall_ns(happened.event.host, happened.time_ns)
                yield _verdict(list(happened.event.findings), at)
        written = [(found.code, found.culprit_ranks) for found in self._state.recorded_findings]
        if findings and written != [(found.code, found.culprit_ranks) for found in findings]:
            now = (
                self._state.wall_ns(host.host, host.now_ns) for host in self._state.hosts.values()
            )
            yield _verdict(findings, max(now, default=0))


def _lay_out_tracks(spans: list[Span], numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
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


def _order(process: Process) -> tuple[bool, int, int, str]:
    rank = process.global_rank if process.role == "rank" else None
    return (rank is None, rank or 0, process.started_ns or 0, process.key)


def _group_title(process: Process, pg_name: str) -> str:
    group = process.groups.get(pg_name)
    return group.pg_desc if group and group.pg_desc not in ("", "undefined") else pg_name


def _instant(
    process: int, track: int, name: str, at_ns: int, args: dict[str, Any]
) -> dict[str, Any]:
    # Shown across all tracks, across those of its process, or on its own track only.
    scope = "g" if process == _VERDICTS else "p" if track == _OWN else "t"
    where = {"pid": process, "tid": track}
    return {"ph": "i", "s": scope, "name": name, **where, "ts": at_ns, "args": args}


def _verdict(findings: list[Finding], at_ns: int) -> dict[str, Any]:
    first = findings[0]
    args = {
        "summary": redact_text(first.summary),
        "advice": redact_text(first.advice),
        "culprit_ranks": list(first.culprit_ranks),
        "waiting_ranks": list(first.waiting_ranks),
        "also": [f"{found.severity}: {found.code}" for found in findings[1:]],
    }
    return _instant(_VERDICTS, _OWN, f"{first.severity}: {first.code}", at_ns, args)


def _names(processes: list[Process], numbers: dict[str, int]) -> Iterable[dict[str, Any]]:
    yield _name("process_name", _VERDICTS, "verdict")
    for process in processes:
        number = numbers[process.key]
        rank = process.global_rank if process.role == "rank" else None
        who = f"rank {rank}" if rank is not None else process.role
        yield _name("process_name", number, f"{who} (pid {process.pid} on {process.host})")
        for track, name in _TRACKS.items():
            yield _name("thread_name", number, name, track)


def _name(what: str, process: int, name: str, track: int = _OWN) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}}
