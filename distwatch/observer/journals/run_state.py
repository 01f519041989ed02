"""The state of a recorded run: from its checkpoint, if it has a valid one, and what came after it."""

from __future__ import annotations

import time

import msgspec

from distwatch.observer.journals.checkpoint import (
    Checkpoint,
    read_checkpoint,
    still_holds,
    without_collections,
    write_checkpoint,
)
from distwatch.observer.journals.reading import Ends, Entry, Reading, is_of_run, nothing_in
from distwatch.runfolder import RunFolder, host_name
from distwatch.state.events import decode_event
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce

WORTH_S = 0.3
"""Reading that took less is done again sooner than a checkpoint is written and read."""


class RecordedState(msgspec.Struct, frozen=True):
    """The state, and the times of its first and last event (ns of their hosts)."""

    state: RunState
    first_ns: int
    last_ns: int


def load_state(folder: RunFolder) -> RunState:
    """The run as far as it was recorded, alive or dead.

    Raises:
        PartialData: no record could be read.
    """
    return load_run(folder).state


def load_run(folder: RunFolder) -> RecordedState:
    """As `load_state`, with the span of time; leaves a checkpoint where reading took long.

    Raises:
        PartialData: no record could be read.
    """
    with without_collections():
        return _load(folder)


def _load(folder: RunFolder) -> RecordedState:
    began = time.monotonic()
    base = read_checkpoint(folder)
    if base is not None and not still_holds(base, folder):
        base = None
    state = base.state if base else RunState(run_id=folder.run_id)
    found, fresh = bool(state.streams), 0
    reading, ends = Reading(folder, base), Ends(base)
    read_s = time.monotonic() - began
    for header, records in reading.streams():
        fresh += len(records)
        for record in records:
            if (event := decode_event(record.payload)) is not None:
                ends.note(Entry(header, record.seq, record.time_ns, event))
                reduce(state, header, record.seq, record.time_ns, event)
                found = found or is_of_run(event)
    folded_s = time.monotonic() - began - read_s
    if fresh and folded_s > WORTH_S and reading.is_settled:
        write_checkpoint(folder, _checkpoint(state, reading, ends))
    last_ns = reading.newest_ns
    for entry in reading.rest():
        ends.note(entry)
        reduce(state, entry.header, entry.seq, entry.time_ns, entry.event)
        found = found or is_of_run(entry.event)
        last_ns = max(last_ns, entry.time_ns)
    for entry in ends.unseen():
        reduce(state, entry.header, entry.seq, entry.time_ns, entry.event)
    if not found:
        raise nothing_in(folder)
    return RecordedState(state, reading.first_ns or last_ns, last_ns)


def _checkpoint(state: RunState, reading: Reading, ends: Ends) -> Checkpoint:
    return Checkpoint(
        state=state,
        files=tuple(reading.files),
        host=host_name(),
        host_ns=ends.newest_ns,
        first_ns=reading.first_ns,
        newest_ns=reading.newest_ns,
        known=frozenset(ends.known),
        ended=frozenset(ends.ended),
    )
