"""A run that the viewer reads from disk."""

from __future__ import annotations

from distwatch.garbage import stays, without_collections
from distwatch.observer.journals.reading import Entry, read_entries
from distwatch.observer.journals.run_state import load_run
from distwatch.observer.targets.kept_report import read_kept_findings
from distwatch.observer.targets.run_source import RunSource
from distwatch.runfolder import RunFolder
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce


class RecordedRun(RunSource):
    """A run from disk, first at its end; `seek` goes to any other moment."""

    live = False

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, "recorded")
        self._entries: list[Entry] = []
        """Read at the first `seek` to another moment: the end needs only the state."""
        self._changed = True

    async def open(self) -> None:
        """Reads its end; raises PartialData where there are no records."""
        with without_collections():
            self.findings = read_kept_findings(self.folder)
            run = load_run(self.folder)
            stays(run.state)
        self.state, self.span = run.state, (run.first_ns, run.last_ns)
        self.cursor_ns = run.last_ns

    async def poll(self) -> bool:
        changed, self._changed = self._changed, False
        return changed

    async def dump(self) -> str:
        return "a recorded run cannot be dumped: `distwatch report` writes what is on disk"

    def seek(self, time_ns: int) -> None:
        """Folds the recording up to that time."""
        self._entries = self._entries or read_entries(self.folder, ends=True)
        first, last = self.span or (0, 0)
        self.cursor_ns = max(first, min(time_ns, last))
        state = RunState(run_id=self.run_id)
        for entry in self._entries:
            if entry.time_ns > self.cursor_ns:
                break
            reduce(state, entry.header, entry.seq, entry.time_ns, entry.event)
        self.state = state
        self.findings = None
        self._changed = True
