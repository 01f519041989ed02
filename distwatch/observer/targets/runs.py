"""The runs recorded under a root: their folders, names and processes, and one line for each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import msgspec

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.diagnosis.verdict.headline import Headline, headline_of
from distwatch.errors import NoSuchTarget, PartialData, UsageError
from distwatch.observer.journals.pruning import is_run, run_folders
from distwatch.observer.journals.reading import any_alive, attached_keys, lives
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.lock import lock_holder
from distwatch.probes.table import title_of
from distwatch.report.document import redacted_headline
from distwatch.runfolder import (
    RunFolder,
    ancestors,
    host_name,
    is_alive,
    is_named,
    name_of,
    start_ticks,
)
from distwatch.state.frames import process_key
from distwatch.visible_text import shorten

SCHEMA = "distwatch.ps/1"


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `distwatch ps`. `started_wall_ns` is 0 where it is not known."""

    run_id: str
    path: str
    started_wall_ns: int = 0
    script: str = ""
    """What its ranks run; '' where none of them says it."""
    world_size: int | None = None
    ranks_alive: int = 0
    ranks_seen: int = 0
    hosts: tuple[str, ...] = ()
    observer_pid: int | None
    alive: bool
    verdict: Headline = Headline(word="unreadable", summary="")
    blocked: bool = False


def run_at(path: str) -> RunFolder | None:
    """The run of a path: its folder, one of its incidents, or a file in either."""
    if os.sep not in path and not os.path.isdir(path):
        return None
    place = os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path))
    above = os.path.dirname(place)
    folders = map(RunFolder, (place, above, os.path.dirname(above)))
    return next((folder for folder in folders if is_run(folder)), None)


def run_named(word: str, folders: Iterable[RunFolder]) -> RunFolder | None:
    """The newest launch of the run of that name, or of a Ray job: `ray-<job id>`."""
    named = [folder for folder in folders if is_named(folder.run_id, word)]
    exact = [folder for folder in named if word in (folder.run_id, name_of(folder.run_id))]
    return max(exact or named, key=_launch, default=None)


def run_of_pid(pid: int, folders: Iterable[RunFolder]) -> RunFolder | None:
    """The run of a rank, of one of its children, or of what started it; None where no run has it.

    Raises:
        UsageError: it has started the processes of several runs.
    """
    folders = list(folders)
    for current in (pid, *ancestors(pid)):
        for folder in folders:
            if _has_process(folder, current):
                return folder
    if not os.path.isdir(f"/proc/{pid}"):
        return None
    below = [folder for folder in folders if _is_above(pid, folder)]
    if len(below) > 1:
        raise UsageError(
            f"process {pid} has started several runs: {', '.join(f.run_id for f in below)}",
            advice="Give one of these names, or the pid of a rank.",
        )
    return below[0] if below else None


def _is_above(pid: int, folder: RunFolder) -> bool:
    """Whether a living process of the run is below that one: a launcher, a shell, `timeout`, a supervisor."""
    here = host_name()
    for start in folder.starts():
        if start.get("host") != here or "pid" not in start or "ticks" not in start:
            continue  # of another host, or torn
        rank, ticks = int(start["pid"]), int(start["ticks"])
        if is_alive(rank, ticks) and pid in ancestors(rank):
            return True
    return False


def attached_run_of_pid(pid: int, folders: Iterable[RunFolder]) -> RunFolder | None:
    """The newest run that an `attach` made for the job of a process, or of one above it."""
    line = {process_key(host_name(), one, start_ticks(one)) for one in (pid, *ancestors(pid))}
    ended = f"{host_name()}-{pid}."
    gone = not os.path.isdir(f"/proc/{pid}")

    def has_it(key: str) -> bool:
        return key in line or (gone and key.startswith(ended))

    found = [folder for folder in folders if any(map(has_it, attached_keys(folder)))]
    return max(found, key=_folder_ns, default=None)


def runs_by_actor(folders: Iterable[RunFolder]) -> dict[str, list[RunFolder]]:
    """Runs by the names of the Ray actors in them or in their clusters."""
    runs: dict[str, list[RunFolder]] = {}
    for folder in folders:
        try:
            state = load_state(folder)
        except PartialData:
            continue
        names = {p.worker.actor_name for p in state.processes.values() if p.worker}
        names |= {one.name for host in state.hosts.values() for one in host.ray.actors.values()}
        for name in names:
            runs.setdefault(name, []).append(folder)
    return runs


def list_runs(root: str) -> list[RunSummary]:
    """All runs under a root, the newest first; the verdict of an unreadable run says why."""
    return sorted(
        (summarize(folder) for folder in run_folders(root)),
        key=lambda summary: (-summary.started_wall_ns, summary.run_id),
    )


def newest_run(root: str) -> RunFolder:
    """The newest living run, else the newest one.

    Raises:
        NoSuchTarget: there is none.
    """
    runs = list_runs(root)
    if not runs:
        raise NoSuchTarget(
            f"no run is recorded under {root}",
            advice="Start one with `distwatch run -- …`, or set DISTWATCH_DIR.",
        )
    return RunFolder(next((run for run in runs if run.alive), runs[0]).path)


def runs_document(runs: list[RunSummary]) -> dict[str, Any]:
    """The document that `distwatch ps -o json` prints."""
    return {"schema": SCHEMA, "runs": [msgspec.to_builtins(run) for run in runs]}


def summarize(folder: RunFolder) -> RunSummary:
    """A run in one line; if it cannot be read, the verdict says why. Never raises."""
    summary = RunSummary(
        run_id=folder.run_id,
        path=folder.path,
        observer_pid=lock_holder(folder),
        alive=any_alive(folder) or any(map(lives, attached_keys(folder))),
    )
    try:
        return _filled(summary, folder)
    except Exception as error:
        # A problem with one run must not hide the others.
        why = str(error) if isinstance(error, PartialData) else f"cannot be read: {error!r}"
        return msgspec.structs.replace(
            summary, verdict=Headline(word="unreadable", summary=shorten(why, 300))
        )


def _filled(summary: RunSummary, folder: RunFolder) -> RunSummary:
    state = load_state(folder)
    cases = cases_of(state)
    job, findings = cases[0].job, diagnose(cases)
    starts = [
        process.started_ns + state.hosts[process.host].wall_offset_ns
        for process in state.processes.values()
        if process.started_ns is not None and process.host in state.hosts
    ]
    return msgspec.structs.replace(
        summary,
        started_wall_ns=min(starts, default=_folder_ns(folder)),
        script=next((title_of(p.command) for p in job.ranks.values() if p.command), ""),
        world_size=job.world,
        ranks_alive=sum(lives(process.key) for process in job.ranks.values()),
        ranks_seen=len(job.ranks),
        hosts=tuple(sorted({process.host for process in job.ranks.values()})),
        verdict=redacted_headline(headline_of(cases, findings, rank_statuses(state, job))),
        blocked=any(finding.blocks for finding in findings),
    )


def _has_process(folder: RunFolder, pid: int) -> bool:
    start = folder.start(f"{host_name()}-{pid}")
    ended = not os.path.isdir(f"/proc/{pid}")
    return bool(start) and (ended or start.get("ticks") == str(start_ticks(pid)))


def _launch(folder: RunFolder) -> tuple[str, int]:
    name = name_of(folder.run_id)
    return name, int(folder.run_id.removeprefix(name).removeprefix("~") or 1)


def _folder_ns(folder: RunFolder) -> int:
    try:
        return os.stat(folder.path).st_mtime_ns
    except OSError:
        return 0
