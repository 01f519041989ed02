"""The report on a run as it stands now, from what is recorded of it, alive or dead."""

from __future__ import annotations

from distwatch.diagnosis import diagnose
from distwatch.observer.reading import load_state
from distwatch.report.document import Report, build_report
from distwatch.runfolder import RunFolder


def report_on(folder: RunFolder) -> Report:
    """Reads, judges and tells.

    Raises:
        PartialData: not one record could be read.
    """
    state = load_state(folder)
    return build_report(state, diagnose(state), folder.run_id)
