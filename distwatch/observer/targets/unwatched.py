"""Jobs of this user on this host that run without distwatch, as the process table shows them."""

from __future__ import annotations

import datetime
import os
import time

import msgspec

from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.targets.runs import run_of_pid
from distwatch.probes.discovery import ranks_here
from distwatch.probes.process import began_s, main_thread_busy_s
from distwatch.settings import run_root
from distwatch.state.events import ProcessSighted
from distwatch.state.quantities import count_of

MOVES_WITHIN_S = 1.0


class UnwatchedJob(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks that belong together, by rank. `command`: of the first one, secrets redacted."""

    pids: tuple[int, ...]
    command: tuple[str, ...]
    launcher: str = "unknown"
    world_size: int | None = None
    since_s: float | None = None
    """When the first of them began, by the wall clock."""

    @property
    def text(self) -> str:
        """`2 ranks of train.py run without distwatch: …`; with usual names it fits 80 columns."""
        script = next((word for word in self.command if word.endswith(".py")), "")
        of_script = f" of {os.path.basename(script)}" if script else ""
        count = len(self.pids)
        return (
            f"{count_of(count, 'rank')}{of_script} {'runs' if count == 1 else 'run'} without distwatch: "
            f"`distwatch attach {self.pids[0]}`"
        )


def unwatched_jobs(root: str) -> list[UnwatchedJob]:
    """The jobs of which no run under that root, or under the root that they name, knows a process."""
    together: dict[object, list[ProcessSighted]] = {}
    folders = {root: run_folders(root)}
    for sighted, environ in ranks_here():
        own = run_root(environ)
        known = folders.setdefault(own, run_folders(own)) + folders[root]
        if run_of_pid(sighted.pid, known) is None:
            identity = sighted.identity
            key = identity.endpoint or identity.launch_id or sighted.ppid
            together.setdefault(key, []).append(sighted)
    in_order = [sorted(ranks, key=_rank) for ranks in together.values()]
    return [
        UnwatchedJob(
            pids=tuple(one.pid for one in ranks),
            command=ranks[0].command,
            launcher=ranks[0].identity.launcher,
            world_size=ranks[0].identity.world_size,
            since_s=min((began for one in ranks if (began := began_s(one.pid))), default=None),
        )
        for ranks in in_order
    ]


def moving_ranks(jobs: list[UnwatchedJob], over_s: float = MOVES_WITHIN_S) -> list[int]:
    """Of each job, how many of its ranks' main threads run within that time, which this waits for."""
    before = [[main_thread_busy_s(pid) for pid in job.pids] for job in jobs]
    time.sleep(over_s)
    after = [[main_thread_busy_s(pid) for pid in job.pids] for job in jobs]
    return [
        sum(one != other for one, other in zip(first, then, strict=True))
        for first, then in zip(before, after, strict=True)
    ]


def choice_text(job: UnwatchedJob, moving: int) -> str:
    """A job in a list of several: also its launcher, its size, since when it runs, and whether it moves."""
    count = len(job.pids)
    parts = [
        f"{job.launcher}, world size {job.world_size or 'unknown'}",
        f"since {datetime.datetime.fromtimestamp(job.since_s):%Y-%m-%d %H:%M:%S}" if job.since_s else "",
        f"{moving} of {count_of(count, 'main thread')} {'moves' if moving == 1 else 'move'}",
    ]  # fmt: skip
    return f"{job.text} ({'; '.join(filter(None, parts))})"


def _rank(sighted: ProcessSighted) -> int:
    return sighted.identity.global_rank or 0
