"""Incidents: a verdict and its state as files that outlive the job and the observer."""

from __future__ import annotations

import os

from distwatch.diagnosis.facts.case import Case
from distwatch.foreign_files import write_whole
from distwatch.runfolder import RunFolder, make_private
from distwatch.state.bounds import whole_number
from distwatch.state.finding import Finding
from distwatch.state.model import RunState


def next_incident(folder: RunFolder) -> int:
    """The number after the newest incident, from 1."""
    try:
        names = os.listdir(folder.incidents)
    except OSError:
        return 1
    return max((whole_number(name) or 0 for name in names), default=0) + 1


def write_incident(
    folder: RunFolder,
    state: RunState,
    findings: list[Finding],
    number: int | None = None,
    cases: list[Case] | None = None,
) -> str:
    """Writes report.json, report.md and report.html of an incident; returns its folder.

    Each file is replaced as a whole: a reader never sees half a file.

    Args:
        number: the incident's number; by default the next one.
        cases: the run's worlds, if the caller has them.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from distwatch.report.document import build_report
    from distwatch.report.formats import CONTENT_TYPES, render

    report = build_report(state, findings, folder.run_id, cases)
    place = os.path.join(folder.incidents, str(number or next_incident(folder)))
    make_private(folder.incidents)
    make_private(place)
    for output in CONTENT_TYPES:
        write_whole(f"{place}/report.{output}", render(report, output))
    return place
