"""The only place that decides which run or job a user's word means."""

from __future__ import annotations

import os

from distwatch.errors import AttachDenied, NoSuchTarget, PartialData, UsageError
from distwatch.observer.cluster.root_registry import SCHEME
from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.targets import runs
from distwatch.observer.targets.target import RunHere, Target
from distwatch.runfolder import RunFolder
from distwatch.state.bounds import whole_number


def resolve(word: str | None, root: str) -> Target:
    """The target of a word; without one, the newest living run, else the newest.

    Args:
        word: the pid of a rank, its launcher, a child of either, a Ray worker or driver; the folder of
            a run, one of its incidents or a file in either; a run's id, its name (the newest launch)
            or `ray-<job id>`; such a name of a run on other nodes; an actor's name; `ray://` or
            `ray://HOST:PORT`, with or without `/RUN`.

    Raises:
        NoSuchTarget: nothing has that name; the advice lists the runs.
        UsageError: several actors have that name.
        PartialData, AttachDenied: a folder holds no run, or cannot be read.
        ClusterSilent: neither the cluster that `ray://` names nor its roots answer.
    """
    if not word:
        return RunHere(runs.newest_run(root))
    folders = run_folders(root)
    pid = whole_number(word)
    found = _run_or_job_of(pid, root, folders) if pid is not None else None
    if isinstance(found, RunHere):
        return found
    # A folder of that name in the current one is meant by `./name`.
    here = None if word.startswith(SCHEME) else runs.run_named(word, folders) or runs.run_at(word)
    if here:
        return RunHere(here)
    # These import the link and the probes, which `distwatch.snapshot` in a rank must not load.
    from distwatch.observer.cluster.root_search import find_root
    from distwatch.observer.targets.remote_runs import RemoteRun

    if found_root := find_root(word, root):
        return RemoteRun(*found_root, root)
    _require_no_folder(word)
    found = found or _run_or_job_with(word, root, folders)
    if found is None:
        raise NoSuchTarget(f"there is no run {word!r}", advice=_what_there_is(root, folders))
    found.require()
    return found


def _run_or_job_of(pid: int, root: str, folders: list[RunFolder]) -> Target:
    """The run of a process; else the run of its Ray job; else the job as a foreign one."""
    if folder := runs.run_of_pid(pid, folders):
        return RunHere(folder)
    from distwatch.observer.targets.foreign_job import ForeignJob
    from distwatch.observer.targets.ray_jobs import ray_job_of

    job = ray_job_of(pid)
    folder = _run_of_ray_job(job.run_name, job.pids, folders) if job else None
    if folder:
        return RunHere(folder)
    return ForeignJob(pid, root, job, runs.attached_run_of_pid(pid, folders))


def _run_or_job_with(actor: str, root: str, folders: list[RunFolder]) -> Target | None:
    """The target of an actor's name: in a living run, else in a cluster here, else in an ended run."""
    living = [folder for folder in folders if any_alive(folder)]
    holding = runs.runs_by_actor(living).get(actor, [])
    if len(holding) > 1:
        raise UsageError(
            f"several runs have an actor named {actor!r}: {', '.join(f.run_id for f in holding)}",
            advice="Give the run's name, or the pid of the actor's worker.",
        )
    if holding:
        return RunHere(holding[0])
    if found := _in_clusters(actor, root, folders):
        return found
    ended = runs.runs_by_actor(folder for folder in folders if folder not in living)
    return RunHere(ended[actor][-1]) if actor in ended else None


def _in_clusters(actor: str, root: str, folders: list[RunFolder]) -> Target | None:
    from distwatch.observer.targets.ray_jobs import actors_named

    named = actors_named(actor)
    if len(named) > 1:
        places = ", ".join(one.place for one in named)
        raise UsageError(
            f"several actors are named {actor!r}: {places}", advice="Give the pid of one of them."
        )
    for one in named:
        if one.pid in one.job.pids:
            return _run_or_job_of(one.pid, root, folders)
        if folder := _run_of_ray_job(one.job.run_name, one.job.pids, folders):
            return RunHere(folder)
        if not one.pid and one.job.driver:
            return _run_or_job_of(one.job.driver, root, folders)
        raise NoSuchTarget(
            f"the actor {actor!r} is not on this machine ({one.place}), and no run here knows its job",
            advice="Attach on that node; or run `distwatch up --ray`, then `distwatch attach ray://`."
            if one.pid
            else "It has no worker: `ray list actors` shows its state; give the pid of its driver.",
        )
    return None


def _run_of_ray_job(name: str, pids: tuple[int, ...], folders: list[RunFolder]) -> RunFolder | None:
    """The run of a Ray job, by its default name or by one of the job's workers."""
    by_pid = (runs.run_of_pid(pid, folders) for pid in pids)
    return runs.run_named(name, folders) or next(filter(None, by_pid), None)


def _require_no_folder(word: str) -> None:
    if not os.path.isdir(word):
        return
    if not os.access(word, os.R_OK | os.X_OK):
        raise AttachDenied(
            f"{word} cannot be read by uid {os.getuid()}", advice="Run as the job's user."
        )
    raise PartialData(
        f"{word} does not hold a run",
        advice="A run folder has *.journal files; `distwatch ps` lists the runs.",
    )


def _what_there_is(root: str, folders: list[RunFolder]) -> str:
    names = [folder.run_id for folder in folders][-8:]
    if not names:
        return f"No run is recorded under {root}: start one with `distwatch run -- …`, or set DISTWATCH_DIR."
    return f"Recorded under {root}: {', '.join(names)}."
