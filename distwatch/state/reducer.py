"""The one function that changes a `RunState`."""

from __future__ import annotations

from distwatch.state import events as ev
from distwatch.state.frames import FileHeader
from distwatch.state.model import RunState, TimelineEntry
from distwatch.state.observer_reducer import OUTSIDE, host_of, process_of
from distwatch.state.process_reducer import INSIDE


def reduce(
    state: RunState,
    header: FileHeader,
    seq: int,
    time_ns: int,
    event: ev.Event,
) -> None:
    """Folds one event of one stream into the state.

    The records of one stream must come in order; streams may interleave in any way. A record that
    was already read changes nothing.

    Args:
        header: the stream of the event.
        seq: its 1-based place in that stream; 0 for what is never journaled (a live pulse).
        time_ns: CLOCK_MONOTONIC of the stream's host.
    """
    if seq and not _advance(state, header, seq, time_ns, event):
        return
    host = host_of(state, header.host)
    if time_ns > host.now_ns:
        host.now_ns = time_ns
    # All streams of a host share one clock, whichever is read first.
    if header.wall_offset_ns > host.wall_offset_ns:
        host.wall_offset_ns = header.wall_offset_ns
    if isinstance(event, ev.UnknownEvent):
        state.unknown_events += 1
    elif handler := OUTSIDE.get(type(event)):
        handler(state, (time_ns, header.stream, seq), event)
    else:
        INSIDE[type(event)](process_of(state, header.stream), time_ns, event)
    if seq and not event.is_routine:
        state.remember(
            TimelineEntry(
                time_ns=time_ns,
                stream=header.stream,
                seq=seq,
                host=header.host,
                process=getattr(event, "process", None) or header.stream,
                event=event,
            )
        )


def _advance(
    state: RunState,
    header: FileHeader,
    seq: int,
    time_ns: int,
    event: ev.Event,
) -> bool:
    """Moves the stream's cursor; False for a record that was already read."""
    last = state.streams.get(header.stream, 0)
    if seq <= last:
        return False
    state.streams[header.stream] = seq
    if type(event) in INSIDE:
        process = process_of(state, header.stream)
        # A snapshot itself contains what came before it.
        if last and seq > last + 1 and not isinstance(event, ev.Snapshot):
            process.gaps += seq - last - 1
        process.last_seq = seq
        process.last_ns = max(process.last_ns, time_ns)
    return True
