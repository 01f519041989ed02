"""The state of a recorded run: from its checkpoint, if it has a valid one, and what came after it."""

from __future__ import annotations

import time

import msgspec

from distwatch.garbage import without_collections
from distwatch.observer.journals.checkpoint import (
    Checkpoint,
    read_checkpoint,
    still_holds,
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


def resume_state(folder: RunFolder) -> RunState:
    """What was recorded, for an observer that goes on with it: it looks itself which processes are gone."""
    with without_collections():
        folded = _Folded(folder)
        folded.fold_records()
        folded.fold_rest()
    return folded.state


def _load(folder: RunFolder) -> RecordedState:
    folded = _Folded(folder)
    folded.fold_records()
    last_ns = folded.fold_rest()
    for entry in folded.ends.unseen():
        reduce(folded.state, entry.header, entry.seq, entry.time_ns, entry.event)
    if not folded.found:
        raise nothing_in(folder)
    return RecordedState(folded.state, folded.reading.first_ns or last_ns, last_ns)


class _Folded:
    """One folding of a run's journals.

    Attributes:
        found: there was a record of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        base = read_checkpoint(folder)
        if base is not None and not still_holds(base, folder):
            base = None
        self.state = base.state if base else RunState(run_id=folder.run_id)
        self.found = bool(self.state.streams)
        self.reading, self.ends = Reading(folder, base), Ends(base)

    def fold_records(self) -> None:
        """Folds what is in no checkpoint; leaves one where that took long."""
        began, fresh, is_left = time.monotonic(), 0, False
        for header, records in self.reading.streams():
            if not self.reading.is_settled and not is_left:
                self._leave(fresh, began)
                is_left = True
            fresh += len(records)
            for record in records:
                if (event := decode_event(record.payload)) is not None:
                    self._fold(Entry(header, record.seq, record.time_ns, event))
        if not is_left:
            self._leave(fresh, began)

    def _leave(self, fresh: int, began: float) -> None:
        if fresh and time.monotonic() - began > WORTH_S:
            write_checkpoint(self._folder, _checkpoint(self.state, self.reading, self.ends))

    def fold_rest(self) -> int:
        """Folds what is in no journal; the newest time of all."""
        last_ns = self.reading.newest_ns
        for entry in self.reading.rest():
            self._fold(entry)
            last_ns = max(last_ns, entry.time_ns)
        return last_ns

    def _fold(self, entry: Entry) -> None:
        self.ends.note(entry)
        reduce(self.state, entry.header, entry.seq, entry.time_ns, entry.event)
        self.found = self.found or is_of_run(entry.event)


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
