"""`distwatch.snapshot`: the run that this process belongs to, as plain data."""

from __future__ import annotations

import os
import sys
from typing import Any

from distwatch.agent.entry import entered_run
from distwatch.errors import NoSuchTarget
from distwatch.runfolder import RunFolder
from distwatch.settings import run_root


def snapshot() -> dict[str, Any]:
    """This run's state as plain data, the same as `distwatch status -o json`.

    For a rank, a dataloader child, the process that launched them, a driver of Ray, or a notebook
    that is one of these or has DISTWATCH_RUN_ID set. It is read from what this node recorded, as
    the command does it: nothing is asked of another rank, and nobody waits.

    Raises:
        NoSuchTarget: this process is in no run, or nothing of the run is recorded here.
        PartialData: what is recorded cannot be read.
    """
    folder = entered_run() or _named_run()
    # Both load what judges and reports: a rank pays for it when it asks.
    from distwatch.observer.targets.reports import report_on
    from distwatch.report.status import status_document

    return status_document(report_on(folder))


def _named_run() -> RunFolder:
    from distwatch.observer.targets.runs import find_run, find_run_of_pid

    root = run_root(os.environ)
    if name := os.environ.get("DISTWATCH_RUN_ID") or _name_by_ray():
        return find_run(name, root)
    folder = find_run_of_pid(os.getpid(), root)
    if folder is None:
        raise NoSuchTarget(
            f"process {os.getpid()} is in no run recorded under {root}",
            advice="Start the job with `distwatch run -- …`, or put `import distwatch.auto` first; "
            "for a run of other processes set DISTWATCH_RUN_ID, or use `distwatch status RUN -o json`.",
        )
    return folder


def _name_by_ray() -> str:
    """What a driver's workers call their run; '' outside of a Ray job."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return ""
    from distwatch.ray import run_name

    return run_name()
