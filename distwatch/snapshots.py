"""`distwatch.snapshot`: the run that this process belongs to, as plain data."""

from __future__ import annotations

import os
from typing import Any

from distwatch.agent.entry import entered_run
from distwatch.errors import NoSuchTarget
from distwatch.launch import connected_ray_run_name
from distwatch.runfolder import RunFolder
from distwatch.settings import run_root


def snapshot() -> dict[str, Any]:
    """This run's state as plain data, the same as `distwatch status -o json`.

    For a rank, its dataloader child, its launcher, a Ray driver, or a notebook that is one of these or
    has DISTWATCH_RUN_ID set. Like the command, it reads this node's records: it asks no other rank and
    never waits.

    Raises:
        NoSuchTarget: this process is in no run, or the run has no records here.
        PartialData: the records cannot be read.
    """
    # Imported here, so that ranks that never call this do not load diagnosis and reports.
    from distwatch.observer.targets.target import RunHere
    from distwatch.report.status import status_document

    return status_document(RunHere(entered_run() or _named_run()).report())


def _named_run() -> RunFolder:
    from distwatch.observer.journals.pruning import run_folders
    from distwatch.observer.targets.resolver import resolve
    from distwatch.observer.targets.runs import run_of_pid

    root = run_root(os.environ)
    if name := os.environ.get("DISTWATCH_RUN_ID") or connected_ray_run_name():
        return resolve(name, root).folder()
    folder = run_of_pid(os.getpid(), run_folders(root))
    if folder is None:
        raise NoSuchTarget(
            f"process {os.getpid()} belongs to no run recorded under {root}",
            advice="Start the job with `distwatch run -- …`, or put `import distwatch.auto` first; "
            "for another process's run, set DISTWATCH_RUN_ID or use `distwatch status RUN -o json`.",
        )
    return folder
