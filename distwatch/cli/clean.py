"""`distwatch clean`: removes the folders of runs that have ended."""

from __future__ import annotations

import click

from distwatch.cli.options import root_option
from distwatch.cli.terminal import echo
from distwatch.errors import UsageError
from distwatch.observer.journals.leftovers import sweep
from distwatch.observer.journals.pruning import (
    age_s,
    is_open,
    reason_to_keep,
    remove,
    run_folders,
)
from distwatch.state.quantities import seconds_of


@click.command()
@click.option(
    "--older-than", default="7d", show_default=True, metavar="AGE", help="As 30m, 12h, 7d."
)
@click.option("--all", "everything", is_flag=True, help="Remove runs of any age.")
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
@root_option
def command(older_than: str, everything: bool, dry_run: bool, root: str) -> int:
    """Remove the folders of ended runs, and free what ended runs still hold in memory.

    Living runs are always kept.
    """
    limit_s = 0.0 if everything else _seconds(older_than)
    removed = failed = 0
    for folder in run_folders(root):
        try:
            if is_open(folder) or age_s(folder) < limit_s:
                continue
            if reason := reason_to_keep(folder):
                echo(f"distwatch: kept: {folder.path}: {reason}", err=True)
                continue
            if not dry_run:
                remove(folder)
        except OSError as error:
            failed += 1
            echo(f"distwatch: not removed: {folder.path}: {error}", err=True)
            continue
        removed += 1
        echo(folder.path)
    if not dry_run:
        sweep(root)  # last: what it writes makes a run younger
    verb = "would be removed" if dry_run else "removed"
    echo(f"distwatch: {removed} run{'s' if removed != 1 else ''} {verb}", err=True)
    return 1 if failed else 0


def _seconds(text: str) -> float:
    age_s = seconds_of(text)
    if age_s is None:
        raise UsageError(f"{text!r} is not an age", advice="Write it as 30m, 12h or 7d.")
    return age_s
