"""`distwatch clean`: removes the folders of runs that have ended."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time

import click

from distwatch.cli.options import root_option
from distwatch.cli.terminal import echo
from distwatch.errors import UsageError
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.lock import lock_holder
from distwatch.observer.targets.runs import run_folders
from distwatch.runfolder import RunFolder, host_name

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FAR_RUN_ENDED_S = 86400.0


@click.command()
@click.option(
    "--older-than", default="7d", show_default=True, metavar="AGE", help="As 30m, 12h, 7d."
)
@click.option("--all", "everything", is_flag=True, help="Remove runs of any age.")
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
@root_option
def command(older_than: str, everything: bool, dry_run: bool, root: str) -> int:
    """Remove the folders of ended runs, on disk and in memory. Living runs are always kept."""
    limit_s = 0.0 if everything else _seconds(older_than)
    removed = failed = 0
    for folder in run_folders(root):
        try:
            if any_alive(folder) or lock_holder(folder) is not None or _age_s(folder) < limit_s:
                continue
            if reason := _reason_to_keep(folder):
                echo(f"distwatch: kept: {folder.path}: {reason}", err=True)
                continue
            if not dry_run:
                _remove(folder)
        except OSError as error:
            failed += 1
            echo(f"distwatch: not removed: {folder.path}: {error}", err=True)
            continue
        removed += 1
        echo(folder.path)
    verb = "would be removed" if dry_run else "removed"
    echo(f"distwatch: {removed} run{'s' if removed != 1 else ''} {verb}", err=True)
    return 1 if failed else 0


def _reason_to_keep(folder: RunFolder) -> str:
    """Why a folder may not be a dead run of ours; '' where it is."""
    status = os.lstat(folder.path)
    if not stat.S_ISDIR(status.st_mode):
        return "it is a link"
    # Every run folder is private: a folder that is not holds something else with similar files.
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        return f"distwatch of uid {os.getuid()} did not create it"
    here = host_name()
    far = sorted({host for start in folder.starts() if (host := start.get("host", here)) != here})
    if far and _age_s(folder) < _FAR_RUN_ENDED_S:
        return f"it was written within a day, and {', '.join(far)} may still run it"
    return ""


def _remove(folder: RunFolder) -> None:
    volatile = folder.volatile
    if volatile and volatile != folder.path:
        shutil.rmtree(volatile, ignore_errors=True)
    shutil.rmtree(folder.path)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an age", advice="Write it as 30m, 12h or 7d.")
    return float(match[1]) * _UNITS[match[2]]


def _age_s(folder: RunFolder) -> float:
    newest = 0.0
    for name in os.listdir(folder.path):
        try:
            newest = max(newest, os.lstat(os.path.join(folder.path, name)).st_mtime)
        except OSError:
            continue
    return time.time() - newest
