"""A run as it stands now, alive or dead: from what is recorded of it here, or through its root elsewhere."""

from __future__ import annotations

import asyncio

from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.observer.journals.reading import load_state
from distwatch.observer.targets.runs import find_run
from distwatch.report.document import Report, build_report
from distwatch.runfolder import RunFolder
from distwatch.state.model import RunState


def read_run(target: str, root: str) -> tuple[str, RunState]:
    """The id and the state of what a person names; `ray://…` and runs of other nodes, too.

    Raises:
        NoSuchTarget: there is nothing of that name.
        PartialData: not one record could be read.
        SourceLost: its root does not answer.
    """
    # With the daemon's own modules behind it: not in a rank that asks for its snapshot.
    from distwatch.observer.targets.linked import find_linked

    linked = find_linked(target, root)
    if linked is not None:
        return linked.run_id, asyncio.run(linked.look())
    folder = find_run(target, root)
    return folder.run_id, load_state(folder)


def report_of(target: str, root: str) -> Report:
    """Reads what a person names, judges and tells; raises as `read_run` does."""
    run_id, state = read_run(target, root)
    return _judged(state, run_id)


def report_on(folder: RunFolder) -> Report:
    """Reads, judges and tells.

    Raises:
        PartialData: not one record could be read.
    """
    return _judged(load_state(folder), folder.run_id)


def _judged(state: RunState, run_id: str) -> Report:
    cases = cases_of(state)
    return build_report(state, diagnose(cases), run_id, cases[0].job)
