"""Which run or job a person means by a word: the one place that decides it."""

from __future__ import annotations

import os

from distwatch.errors import AttachDenied, NoSuchTarget, PartialData, UsageError
from distwatch.observer.cluster.root_registry import SCHEME
from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.targets.runs import (
    newest_run,
    run_at,
    run_named,
    run_of_pid,
    runs_by_actor,
)
from distwatch.observer.targets.target import RunHere, Target
from distwatch.runfolder import RunFolder
from distwatch.state.bounds import whole_number


def resolve(word: str | None, root: str) -> Target:
    """What is meant; without a word the newest living run, else the newest.

    Args:
        word: the pid of a rank, its launcher, a child of one, a Ray worker or driver; the folder of
            a run, an incident of it or a file in either; a run's id, its name (the newest launch)
            or `ray-<job id>`; a run of other nodes by such a name; an actor's name; `ray://`,
            `ray://HOST:PORT`, either with `/RUN` after it.

    Raises:
        NoSuchTarget: nothing is called that; the advice lists what there is.
        UsageError: several actors are called that.
        PartialData, AttachDenied: it is a folder without a run, or one that cannot be read.
        ClusterSilent: the cluster that `ray://` names and its roots do not answer.
    """
    if not word:
        return RunHere(newest_run(root))
    folders = run_folders(root)
    pid = whole_number(word)
    found = _run_or_job_of(pid, root, folders) if pid is not None else None
    if isinstance(found, RunHere):
        return found
    # A folder of that name in the current one is meant by `./name`.
    here = None if word.startswith(SCHEME) else run_named(word, folders) or run_at(word)
    if here:
        return RunHere(here)
    # With the link and the probes behind it: not in a process that asks for its snapshot.
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
    """Of a process; where no run knows it, of the Ray job that it works in or drives."""
    if folder := run_of_pid(pid, folders):
        return RunHere(folder)
    from distwatch.observer.targets.foreign_job import ForeignJob
    from distwatch.observer.targets.ray_jobs import ray_job_of

    job = ray_job_of(pid)
    folder = _run_of_ray_job(job.run_name, job.pids, folders) if job else None
    return RunHere(folder) if folder else ForeignJob(pid, root, job)


def _run_or_job_with(actor: str, root: str, folders: list[RunFolder]) -> Target | None:
    """Of an actor's name: living runs come first, then the clusters here, then ended runs."""
    living = [folder for folder in folders if any_alive(folder)]
    holding = runs_by_actor(living).get(actor, [])
    if len(holding) > 1:
        raise UsageError(
            f"several runs have an actor {actor!r}: {', '.join(f.run_id for f in holding)}",
            advice="Name the run, or the pid of the actor's worker.",
        )
    if holding:
        return RunHere(holding[0])
    if found := _in_clusters(actor, root, folders):
        return found
    ended = runs_by_actor(folder for folder in folders if folder not in living)
    return RunHere(ended[actor][-1]) if actor in ended else None


def _in_clusters(actor: str, root: str, folders: list[RunFolder]) -> Target | None:
    from distwatch.observer.targets.ray_jobs import actors_named

    named = actors_named(actor)
    if len(named) > 1:
        places = ", ".join(one.place for one in named)
        raise UsageError(
            f"several actors are called {actor!r}: {places}", advice="Give the pid of one of them."
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
            advice="Attach on that node; or `distwatch up --ray` links all nodes, and `attach ray://` shows them."
            if one.pid
            else "It has no worker: `ray list actors` tells its state; give the pid of its driver.",
        )
    return None


def _run_of_ray_job(name: str, pids: tuple[int, ...], folders: list[RunFolder]) -> RunFolder | None:
    """By the name that such a run has of itself, or by a worker, where another was given."""
    by_pid = (run_of_pid(pid, folders) for pid in pids)
    return run_named(name, folders) or next(filter(None, by_pid), None)


def _require_no_folder(word: str) -> None:
    if not os.path.isdir(word):
        return
    if not os.access(word, os.R_OK | os.X_OK):
        raise AttachDenied(
            f"{word} cannot be read by uid {os.getuid()}", advice="Run as the job's user."
        )
    raise PartialData(
        f"{word} holds nothing of a run",
        advice="A run folder has *.journal files; `distwatch ps` lists the runs.",
    )


def _what_there_is(root: str, folders: list[RunFolder]) -> str:
    names = [folder.run_id for folder in folders][-8:]
    if not names:
        return f"No run is recorded under {root}: start one with `distwatch run -- …`, or set DISTWATCH_DIR."
    return f"Recorded under {root}: {', '.join(names)}."
