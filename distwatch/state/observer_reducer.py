"""How an observer's events change the state: registers, in which the newest sighting wins.

Only the reducer calls this.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from distwatch.state import events as ev
from distwatch.state.codec import share_parts
from distwatch.state.event import register
from distwatch.state.host import Host, Link, Stamp
from distwatch.state.identity import IDENTITY_PARTS
from distwatch.state.model import (
    INCIDENTS_KEPT,
    PORT_ERRORS_KEPT,
    SOURCE_FILES_KEPT,
    SOURCES_KEPT,
    Process,
    RunState,
)
from distwatch.state.ray_events import RAY, RayLooked
from distwatch.state.ray_tables import RAY_EVENTS, RayEvent, fold_ray

_DEAD = frozenset("ZX")
"""The kernel's task states of a process that has ended."""
E = TypeVar("E", bound=ev.Event)
OUTSIDE: dict[type[ev.Event], Callable[[RunState, Stamp, Any], None]] = {}
"""The handler of each class of events."""


_folds = partial(register, OUTSIDE)


def process_of(state: RunState, key: str) -> Process:
    process = state.processes.get(key)
    if process is None:
        process = state.processes[key] = Process(key=key)
    return process


def host_of(state: RunState, name: str) -> Host:
    host = state.hosts.get(name)
    if host is None:
        host = state.hosts[name] = Host(host=name)
    return host


def _newest(stamps: dict[str, Stamp], field: str, stamp: Stamp) -> bool:
    if field in stamps and stamps[field] >= stamp:
        return False
    stamps[field] = stamp
    return True


def _register(field: str, state: RunState, stamp: Stamp, event: Any) -> None:
    """Keeps the newest event in that field of its process or host."""
    of_process = hasattr(event, "process")
    owner = process_of(state, event.process).outside if of_process else host_of(state, event.host)
    if _newest(owner.stamps, field, stamp):
        setattr(owner, field, event)


OUTSIDE[ev.ConnectionsSeen] = partial(_register, "connections")
OUTSIDE[ev.RendezvousLooked] = partial(_register, "rendezvous")
OUTSIDE[ev.ArgumentsRead] = partial(_register, "arguments")
OUTSIDE[ev.FilesWritten] = partial(_register, "written")
OUTSIDE[ev.RecorderFileRead] = partial(_register, "recorder_file")
OUTSIDE[ev.RankAborted] = partial(_register, "aborted")
OUTSIDE[ev.HostSampled] = partial(_register, "sample")
OUTSIDE[ev.SharedMemorySampled] = partial(_register, "shared_memory")
OUTSIDE[ev.DevicesSampled] = partial(_register, "devices")
OUTSIDE[ev.PortsSampled] = partial(_register, "ports")
OUTSIDE[ev.CommunicatorsSeen] = partial(_register, "communicators")


@_folds(ev.ProcessSighted)
def _process_sighted(state: RunState, stamp: Stamp, event: ev.ProcessSighted) -> None:
    # A start record alone has no command line: it must not hide that of a look at the process.
    order = stamp if event.command else (0, *stamp[1:])
    share_parts(event.identity, *IDENTITY_PARTS)
    _register("seen", state, order, share_parts(event, "host", "role", "command"))


@_folds(ev.ProcessSampled)
def _process_sampled(state: RunState, stamp: Stamp, event: ev.ProcessSampled) -> None:
    outside = process_of(state, event.process).outside
    # A zombie is in no call and has no files: keep what it was doing before its end.
    order = (0, *stamp[1:]) if event.state in _DEAD else stamp
    if _newest(outside.stamps, "sample", order):
        outside.sample = event


@_folds(ev.PulseRead)
def _pulse_read(state: RunState, stamp: Stamp, event: ev.PulseRead) -> None:
    outside = process_of(state, event.process).outside
    # A pulse is as new as its beat, not as its reading; a frozen page may still hold newer
    # operations than its last reading.
    newest_ns = max([op.left_ns or op.entered_ns for op in event.operations], default=0)
    order = (event.pulse.beat_ns, f"{newest_ns:020}{stamp[1]}", stamp[2])
    if _newest(outside.stamps, "pulse", order):
        for operation in event.operations:
            share_parts(operation, "op", "pg_name", "dtype")
        outside.pulse, outside.operations = event.pulse, event.operations


@_folds(ev.ExitSeen)
def _exit_seen(state: RunState, stamp: Stamp, event: ev.ExitSeen) -> None:
    outside = process_of(state, event.process).outside
    # The first sighting of an end is the closest to it; one that knows the exit status wins.
    knows = event.exit_code is not None or event.signal is not None
    order = ((int(knows) << 63) - stamp[0], stamp[1], stamp[2])
    if _newest(outside.stamps, "exit", order):
        outside.exit = event
    outside.exit_ns = min(outside.exit_ns or stamp[0], stamp[0])


@_folds(ev.StackTaken)
def _stack_taken(state: RunState, stamp: Stamp, event: ev.StackTaken) -> None:
    outside = process_of(state, event.process).outside
    # A failed dump must not hide the last good one.
    if event.native:
        if event.threads and _newest(outside.stamps, "native", stamp):
            outside.native = event
    elif event.threads and _newest(outside.stamps, "stack", stamp):
        outside.stack, outside.stack_ns = event, stamp[0]
    elif not event.threads and _newest(outside.stamps, "not_observed:stack", stamp):
        outside.not_observed["stack"] = event.error or "no threads"


@_folds(ev.OutputSeen)
def _output_seen(state: RunState, stamp: Stamp, event: ev.OutputSeen) -> None:
    outside = process_of(state, event.process).outside
    if _newest(outside.stamps, "output", stamp):
        outside.last_output = event.text


@_folds(ev.PortErrorSeen)
def _port_error_seen(state: RunState, stamp: Stamp, event: ev.PortErrorSeen) -> None:
    errors = host_of(state, event.host).port_errors
    key = (event.port, event.process or "", event.decides)
    # The first error of a port is the nearest to its cause.
    known = errors.get(key)
    if known is None and len(errors) >= PORT_ERRORS_KEPT:
        return
    if known is None or stamp < known[0]:
        errors[key] = (stamp, event)


@_folds(ev.SourcesRead)
def _sources_read(state: RunState, _: Stamp, event: ev.SourcesRead) -> None:
    for line in event.lines:
        # The greatest text wins, so that the order in which hosts read does not matter.
        known = state.sources.get((line.file, line.line), "")
        if len(state.sources) < SOURCES_KEPT or known:
            state.sources[line.file, line.line] = max(known, line.text)


@_folds(ev.SourceFileRead)
def _source_file_read(state: RunState, _: Stamp, event: ev.SourceFileRead) -> None:
    # A whole text wins over a reason why there is none, then the greatest text: hosts read in any order.
    known = state.source_files.get(event.file)
    if known is None and len(state.source_files) >= SOURCE_FILES_KEPT:
        return
    if known is None or (event.text, event.not_read) > (known.text, known.not_read):
        state.source_files[event.file] = event


@_folds(ev.ErrorFileRead)
def _error_file_read(state: RunState, stamp: Stamp, event: ev.ErrorFileRead) -> None:
    outside = process_of(state, event.process).outside
    if not _newest(outside.stamps, "error_file", stamp):
        return
    outside.error_file = event
    process = process_of(state, event.process)
    # The process's own agent knows more, and earlier.
    if not process.exception_by_agent:
        process.exception_ns = stamp[0]
        process.exception = ev.ExceptionUncaught(
            type_name=event.type_name, message=event.message, traceback=event.traceback
        )


@_folds(ev.ObserverStarted)
def _observer_started(state: RunState, stamp: Stamp, event: ev.ObserverStarted) -> None:
    host_of(state, event.host).observers[stamp[1]] = event


@_folds(ev.ObserverEnded)
def _observer_ended(state: RunState, stamp: Stamp, event: ev.ObserverEnded) -> None:
    host = host_of(state, event.host)
    if _newest(host.stamps, "observer_ended", stamp):
        host.not_observed["observer"] = event.reason


@_folds(ev.LinkChanged)
def _link_changed(state: RunState, stamp: Stamp, event: ev.LinkChanged) -> None:
    host = host_of(state, event.host)
    if _newest(host.stamps, f"link:{event.peer}", stamp):
        since_ns = stamp[0] - int(event.silent_s * 1e9)
        host.links[event.peer] = Link(
            linked=event.linked,
            since_ns=since_ns,
            why=event.why,
            ended=event.ended,
            goes_to=event.goes_to,
        )


@_folds(ev.HostHeard)
def _host_heard(state: RunState, stamp: Stamp, event: ev.HostHeard) -> None:
    # Only its observer says it, live: in a journal it could come from anyone, and would never be renewed.
    if not stamp[2]:
        host_of(state, event.host).hearing = event.hearing


@_folds(ev.Ticked)
def _ticked(state: RunState, _: Stamp, event: ev.Ticked) -> None:
    host_of(state, event.host)


@_folds(ev.EndpointProbed)
def _endpoint_probed(state: RunState, stamp: Stamp, event: ev.EndpointProbed) -> None:
    host = host_of(state, event.host)
    if _newest(host.stamps, f"endpoint:{event.endpoint}", stamp):
        host.endpoints[event.endpoint] = event
    if event.outcome == "store":
        before = host.answered_ns.get(event.endpoint, 0)
        host.answered_ns[event.endpoint] = max(before, stamp[0])


@_folds(ev.LockLooked)
def _lock_looked(state: RunState, stamp: Stamp, event: ev.LockLooked) -> None:
    host = host_of(state, event.host)
    if _newest(host.stamps, f"lock:{event.path}", stamp):
        host.locks[event.path] = event
        if event.holders:
            host.held_locks[event.path] = event
            host.freed_locks.pop(event.path, None)
        else:
            host.freed_locks.setdefault(event.path, stamp[0])


@_folds(ev.NotObserved)
def _not_observed(state: RunState, stamp: Stamp, event: ev.NotObserved) -> None:
    place = (
        process_of(state, event.process).outside if event.process else host_of(state, event.host)
    )
    if _newest(place.stamps, f"not_observed:{event.what}", stamp):
        place.not_observed[event.what] = event.why


@_folds(*RAY_EVENTS)
def _ray_read(state: RunState, stamp: Stamp, event: RayEvent) -> None:
    host = host_of(state, event.host)
    fold_ray(host.ray, stamp, event)
    # The tables can be read again: the reason why they could not is outdated.
    if isinstance(event, RayLooked) and _newest(host.stamps, f"not_observed:{RAY}", stamp):
        host.not_observed.pop(RAY, None)


@_folds(ev.NodeMarked)
def _node_marked(state: RunState, stamp: Stamp, event: ev.NodeMarked) -> None:
    host = host_of(state, event.node)
    if _newest(host.stamps, "marked", stamp):
        host.marked = event


@_folds(ev.IncidentNotified)
def _incident_notified(state: RunState, stamp: Stamp, event: ev.IncidentNotified) -> None:
    host = host_of(state, event.host)
    # The first message about an incident is the one that was sent.
    key = f"notified:{event.phase}:{event.incident}"
    if event.incident <= INCIDENTS_KEPT and (key not in host.stamps or stamp < host.stamps[key]):
        host.stamps[key] = stamp
        host.notified[event.phase, event.incident] = event


@_folds(ev.FindingsJudged)
def _findings_judged(state: RunState, stamp: Stamp, event: ev.FindingsJudged) -> None:
    if event.findings and 0 < (event.incident or 0) <= INCIDENTS_KEPT:
        key = (event.host, event.incident or 0)
        if key not in state.incidents or stamp > state.incidents[key][0]:
            state.incidents[key] = (stamp, event)
    # An observer of all hosts knows more than one of a single host, whatever their clocks say.
    before = state.judged
    known = (before is not None and not before.of_one_host, state.judged_stamp)
    if (not event.of_one_host, stamp) > known:
        state.judged, state.judged_stamp = event, stamp
