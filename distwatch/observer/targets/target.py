"""What a user's word can mean: a run recorded here, a run on other nodes, or a foreign job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.journals.run_state import WORTH_S, load_state
from distwatch.observer.lock import lock_holder
from distwatch.observer.looks.source_files import read_all
from distwatch.observer.targets.kept_report import is_over, keep, read_kept, source_of
from distwatch.report.document import Report, build_report
from distwatch.runfolder import RunFolder, host_name
from distwatch.state.frames import FileHeader
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce

if TYPE_CHECKING:
    from distwatch.observer.targets.run_source import RunSource


class Target:
    """A run or a job, and what can be done with it.

    Attributes:
        name: for messages.
    """

    name: str

    def require(self) -> None:
        """Raises NoSuchTarget where there is nothing to look at, AttachDenied where it may not be."""

    def folder(self) -> RunFolder:
        """Its folder on this machine; raises NoSuchTarget where it has none."""
        raise NotImplementedError

    def source(self) -> RunSource:
        """The best source for watching it.

        Raises:
            NoSuchTarget: there is nothing to watch.
            AttachDenied: it belongs to another user.
        """
        raise NotImplementedError

    def state(self) -> RunState:
        """Everything known about it now, alive or dead.

        Raises:
            NoSuchTarget: it is not a run.
            PartialData: no record could be read.
            SourceLost: its root does not answer.
        """
        return load_state(self.folder())

    def report(self) -> Report:
        """Its report, judged now; raises as `state` does."""
        return report_on(self.state())


def report_on(state: RunState) -> Report:
    """The report on a state, judged now."""
    cases = cases_of(state)
    return build_report(state, diagnose(cases), state.run_id, cases)


def with_sources(state: RunState) -> RunState:
    """The same state, to which the unread source files of this host's ranks are added."""
    host = host_name()
    if host in state.hosts:
        header = FileHeader(
            stream="reader", host=host, pid=0, start_ticks=0, boot_id="", wall_offset_ns=0, salt=0
        )
        for read in read_all(state, host):
            reduce(state, header, 0, state.hosts[host].now_ns, read)
    return state


class RunHere(Target):
    """A run that is recorded on this machine."""

    def __init__(self, folder: RunFolder) -> None:
        self.name = folder.run_id
        self._folder = folder

    def folder(self) -> RunFolder:
        return self._folder

    def state(self) -> RunState:
        """As of every target, with the source files that nobody read while it ran."""
        return with_sources(load_state(self._folder))

    def report(self) -> Report:
        """As of every target; of a run that has ended, the one that is kept, where that is still right."""
        if (kept := read_kept(self._folder)) is not None:
            return kept
        began_s, source = time.monotonic(), source_of(self._folder)
        state = self.state()
        report = report_on(state)
        if time.monotonic() - began_s > WORTH_S and is_over(self._folder, state):
            keep(self._folder, source, report)
        return report

    def source(self) -> RunSource:
        """Its observer; else, while it lives, an observer in the viewer; else the recording."""
        # Each when it is needed: an observer in the viewer loads the whole daemon.
        if lock_holder(self._folder) is not None:
            from distwatch.observer.targets.live import LiveRun

            return LiveRun(self._folder)
        if any_alive(self._folder):
            from distwatch.observer.targets.embedded_run import EmbeddedRun

            return EmbeddedRun(self._folder, "embedded: this run has no observer")
        from distwatch.observer.targets.recorded_run import RecordedRun

        return RecordedRun(self._folder)
