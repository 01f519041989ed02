"""Which runs this node knows, and which of them a person means."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import AttachDenied, NoSuchTarget, PartialData
from distwatch.observer.journals.reading import any_alive, load_state
from distwatch.observer.lock import lock_holder
from distwatch.runfolder import RunFolder, host_name, is_alive, name_of, parent_pid, start_ticks

__all__ = [
    "RunSummary", "find_run", "find_run_of_pid", "find_run_or_pid", "list_runs", "load_state",
    "newest_run", "summarize",
]  # fmt: skip
SCHEMA = "distwatch.ps/1"


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `distwatch ps`. `started_wall_ns` is 0 where nothing says it."""

    run_id: str
    path: str
    started_wall_ns: int
    world_size: int | None
    ranks_alive: int
    ranks_seen: int
    hosts: tuple[str, ...]
    observer_pid: int | None
    alive: bool
    verdict: str
    blocked: bool = False


def list_runs(root: str) -> list[RunSummary]:
    """All runs under a root, the newest first; unreadable ones say so as their verdict."""
    return sorted(
        (summarize(folder) for folder in run_folders(root)),
        key=lambda summary: (-summary.started_wall_ns, summary.run_id),
    )


def newest_run(root: str) -> str:
    """The run that is meant where none is named: the newest living one, else the newest; its path.

    Raises:
        NoSuchTarget: there is none.
    """
    runs = list_runs(root)
    if not runs:
        raise NoSuchTarget(
            f"no run is recorded under {root}",
            advice="Start one with `distwatch run -- …`, or set DISTWATCH_DIR.",
        )
    return next((run for run in runs if run.alive), runs[0]).path


def runs_document(runs: list[RunSummary]) -> dict[str, Any]:
    """What `distwatch ps -o json` prints."""
    return {"schema": SCHEMA, "runs": [msgspec.to_builtins(run) for run in runs]}


def run_folders(root: str) -> list[RunFolder]:
    """Folders under the root that hold anything of a run."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    folders = [RunFolder(os.path.join(root, name)) for name in names]
    return [folder for folder in folders if is_run(folder)]


def is_run(folder: RunFolder) -> bool:
    """Whether a folder holds anything of a run."""
    return bool(folder.stems(".start") or folder.stems(".journal") or folder.stems(".ring"))


def summarize(folder: RunFolder) -> RunSummary:
    """A run in one line."""
    observer = lock_holder(folder)
    alive = any_alive(folder)
    try:
        state = load_state(folder)
    except PartialData as error:
        return RunSummary(
            run_id=folder.run_id,
            path=folder.path,
            started_wall_ns=0,
            world_size=None,
            ranks_alive=0,
            ranks_seen=0,
            hosts=(),
            observer_pid=observer,
            alive=alive,
            verdict=str(error),
        )
    job, findings = Job(state), diagnose(state)
    starts = [
        process.started_ns + state.hosts[process.host].wall_offset_ns
        for process in state.processes.values()
        if process.started_ns is not None and process.host in state.hosts
    ]
    return RunSummary(
        run_id=folder.run_id,
        path=folder.path,
        started_wall_ns=min(starts, default=_folder_ns(folder)),
        world_size=job.world,
        ranks_alive=sum(_lives(process.pid, process.key) for process in job.ranks.values()),
        ranks_seen=len(job.ranks),
        hosts=tuple(sorted({process.host for process in job.ranks.values()})),
        observer_pid=observer,
        alive=alive,
        verdict=findings[0].summary if findings else "no findings",
        blocked=any(finding.blocks for finding in findings),
    )


def find_run(target: str, root: str) -> RunFolder:
    """The run that a person names by run id, folder, incident folder, pid or actor's name.

    A bare id means the newest launch of that name; `ray-<job id>` the newest cluster's job. The pid
    may be that of a Ray job's driver.

    Raises:
        NoSuchTarget: there is none; the advice lists what there is.
    """
    found = find_run_or_pid(target, root)
    if isinstance(found, RunFolder):
        return found
    pid = found if found is not None and os.path.isdir(f"/proc/{found}") else None
    raise NoSuchTarget(
        _complaint(target if found is None else str(found)),
        advice=_what_there_is(root)
        if pid is None
        else f"`distwatch attach {pid}` looks at it from outside.",
    )


def find_run_or_pid(target: str, root: str) -> RunFolder | int | None:
    """As `find_run`; a pid that belongs to no run as a number; None: nothing has that name."""
    # With the probes behind it: not in a rank that asks for its snapshot.
    from distwatch.observer.targets.ray_targets import run_of_driver, run_or_pid_of_actor

    if target.isdigit():
        pid = int(target)
        if (folder := find_run_of_pid(pid, root)) is not None:
            return folder
        by_driver = run_of_driver(pid, run_folders(root), lambda one: find_run_of_pid(one, root))
        if by_driver is not None:
            return by_driver
    by_path = _folder_at(target)
    if by_path is not None:
        return by_path
    folders = run_folders(root)
    generations = [f for f in folders if target in (f.run_id, name_of(f.run_id))]
    exact = [folder for folder in generations if folder.run_id == target and "~" in target]
    if found := (exact or sorted(generations, key=_generation)):
        return found[-1]
    if of_ray_job := [folder for folder in folders if is_of_ray_job(folder.run_id, target)]:
        return of_ray_job[-1]
    if target.isdigit():
        return int(target)
    return run_or_pid_of_actor(target, folders, lambda one: find_run_of_pid(one, root))


def find_run_of_pid(pid: int, root: str) -> RunFolder | None:
    """The run that a rank, its launcher or one of its children belongs to; None: no run."""
    folders = run_folders(root)
    current = pid
    for _ in range(16):
        if current <= 1:
            break
        for folder in folders:
            if _has_process(folder, current):
                return folder
        current = parent_pid(current)
    # A launcher is the parent of what is recorded.
    for folder in folders:
        for start in folder.starts():
            if start.get("ppid") == str(pid) and os.path.isdir(f"/proc/{pid}"):
                return folder
    return None


def _has_process(folder: RunFolder, pid: int) -> bool:
    host = host_name()
    return any(
        start.get("ticks") == str(start_ticks(pid)) or not os.path.isdir(f"/proc/{pid}")
        for start in folder.starts_of(f"{host}-{pid}")
    )


def _folder_at(target: str) -> RunFolder | None:
    if os.sep not in target and not os.path.isdir(target):
        return None
    path = os.path.abspath(target if os.path.isdir(target) else os.path.dirname(target))
    for candidate in (path, os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
        folder = RunFolder(candidate)
        if is_run(folder):
            return folder
    if os.path.isdir(target):
        if not os.access(target, os.R_OK | os.X_OK):
            raise AttachDenied(
                f"{target} cannot be read by uid {os.getuid()}", advice="Run as the job's user."
            )
        raise PartialData(
            f"{target} holds nothing of a run",
            advice="A run folder has *.journal files; `distwatch ps` lists the runs.",
        )
    return None


def is_of_ray_job(run_id: str, target: str) -> bool:
    """`ray-01000000` names a job; the cluster's start, which follows in the run's id, need not be known."""
    return target.startswith("ray-") and run_id.startswith(f"{target}-")


def _generation(folder: RunFolder) -> int:
    _, tilde, number = folder.run_id.rpartition("~")
    return int(number) if tilde and number.isdigit() else 1


def _complaint(target: str) -> str:
    if target.isdigit():
        exists = os.path.isdir(f"/proc/{target}")
        return f"process {target} belongs to no run" if exists else f"there is no process {target}"
    return f"there is no run {target!r}"


def _what_there_is(root: str) -> str:
    names = [folder.run_id for folder in run_folders(root)][-8:]
    if not names:
        return f"No run is recorded under {root}: start one with `distwatch run -- …`, or set DISTWATCH_DIR."
    return f"Recorded under {root}: {', '.join(names)}."


def _lives(pid: int, key: str) -> bool:
    ticks = key.rpartition(".")[2]
    return ticks.isdigit() and is_alive(pid, int(ticks))


def _folder_ns(folder: RunFolder) -> int:
    try:
        return os.stat(folder.path).st_mtime_ns
    except OSError:
        return 0
